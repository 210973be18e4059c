DROP TABLE hour;
DROP TABLE history;
