# Reads a Debian changelog; prints the head of one JSON record per release, open at the end for the sum of its body, and
# writes the bodies, byte for byte, to numbered files in the directory `bodies`. For any POSIX awk, in the C locale.
#
# Changelogs reach back to the nineties: entries without a trailer, without an urgency, in latin-1. What is missing is
# null; text outside of any release is passed over.

BEGIN {
    months = "JanFebMarAprMayJunJulAugSepOctNovDec"
    for (i = 1; i < 256; i++) code[sprintf("%c", i)] = i
    forget()
}

# bash (5.2-1) unstable; urgency=low
/^[A-Za-z0-9][A-Za-z0-9+.-]* \([^() \t]+\)[ \tA-Za-z0-9+.~-]*;/ { flush(); begin_release($0); next }

inside && /^ --/ { end_release($0); flush(); next }

inside {
    if ($0 ~ /^[ \t]+[*] /) changes++
    print > body
}

END { flush() }

function forget() {
    inside = 0; version = source = urgency = maintainer = date = ""; dists = ""; changes = 0
}

function begin_release(line,    rest, options, words, n, i) {
    inside = 1
    count++
    body = sprintf("%s/%07d", bodies, count)
    printf "" > body
    source = line; sub(/ .*/, "", source)
    version = line; sub(/^[^(]*\(/, "", version); sub(/\).*/, "", version)
    rest = line; sub(/^[^)]*\)/, "", rest); sub(/;.*/, "", rest)
    n = split(rest, words, " ")
    for (i = 1; i <= n; i++) dists = dists (i > 1 ? "," : "") quoted(words[i])
    options = line; sub(/^[^;]*;/, "", options)
    if (match(tolower(options), /urgency[ \t]*=[ \t]*[a-z]+/)) {
        urgency = tolower(substr(options, RSTART, RLENGTH)); sub(/.*[= \t]/, "", urgency)
    }
}

#  -- Name <name@example.org>  Mon, 01 Jan 2024 10:00:00 +0100
function end_release(line,    at) {
    sub(/^ --[ \t]*/, "", line)
    sub(/[ \t\r]+$/, "", line)
    at = index(line, ">")
    if (!at) { maintainer = line; return }
    maintainer = substr(line, 1, at)
    date = substr(line, at + 1); sub(/^[ \t]+/, "", date)
}

function flush() {
    if (!inside) return
    close(body)
    printf "{\"package\":%s,\"source\":%s,\"version\":%s,", quoted(package), quoted(source), quoted(version)
    printf "\"distributions\":[%s],\"urgency\":%s,", dists, or_null(urgency)
    printf "\"maintainer\":%s,\"date\":%s,", or_null(maintainer), or_null(normal_date(date))
    printf "\"changes\":%d,\"sha256\":\n", changes
    forget()
}

function or_null(text) { return text == "" ? "null" : quoted(text) }

# "Mon, 01 Jan 2024 10:00:00 +0100" becomes "2024-01-01T10:00:00+01:00"; what is written otherwise stays as it is.
function normal_date(text,    part, n, month, zone) {
    n = split(text, part, /[ \t]+/)
    month = index(months, part[3])
    if (n < 6 || length(part[3]) != 3 || !month || part[2] !~ /^[0-9][0-9]?$/ || part[4] !~ /^[0-9][0-9][0-9][0-9]$/)
        return text
    if (part[5] !~ /^[0-9][0-9]?:[0-9][0-9]:[0-9][0-9]$/ || part[6] !~ /^[+-][0-9][0-9][0-9][0-9]$/) return text
    if (length(part[5]) == 7) part[5] = "0" part[5]
    zone = substr(part[6], 1, 3) ":" substr(part[6], 4)
    return sprintf("%s-%02d-%02dT%s%s", part[4], (month + 2) / 3, part[2], part[5], zone)
}

# A JSON string in UTF-8; text that is not valid UTF-8 is taken for latin-1.
function quoted(text,    out, i, c, n, latin) {
    latin = is_latin(text)
    if (!latin && text !~ /["\\\001-\037\177]/) return "\"" text "\""
    n = length(text)
    for (i = 1; i <= n; i++) {
        c = substr(text, i, 1)
        if (c == "\"" || c == "\\") out = out "\\" c
        else if (code[c] < 32 || code[c] == 127) out = out sprintf("\\u%04x", code[c])
        else if (latin && code[c] > 127) out = out sprintf("%c%c", 192 + int(code[c] / 64), 128 + code[c] % 64)
        else out = out c
    }
    return "\"" out "\""
}

function is_latin(text) {
    if (text !~ /[\200-\377]/) return 0
    gsub(/[\302-\337][\200-\277]/, "", text)
    gsub(/\340[\240-\277][\200-\277]/, "", text)
    gsub(/[\341-\354\356\357][\200-\277][\200-\277]/, "", text)
    gsub(/\355[\200-\237][\200-\277]/, "", text)
    gsub(/\360[\220-\277][\200-\277][\200-\277]/, "", text)
    gsub(/[\361-\363][\200-\277][\200-\277][\200-\277]/, "", text)
    gsub(/\364[\200-\217][\200-\277][\200-\277]/, "", text)
    return text ~ /[\200-\377]/
}
