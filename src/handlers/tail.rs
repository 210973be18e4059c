//! The last bytes of a stream, in bounded memory however much flows through.

/// Keeps the last `keep` bytes of what is pushed.
#[derive(Debug, Clone)]
pub struct Tail {
    keep: usize,
    bytes: Vec<u8>,
    dropped: u64,
}

impl Tail {
    /// An empty tail of at most `keep` bytes.
    pub fn new(keep: usize) -> Self {
        Self { keep, bytes: Vec::new(), dropped: 0 }
    }

    /// Takes more bytes. Up to twice `keep` is held between two trims, so that a flood of small
    /// writes does not move the kept bytes each time.
    pub fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        if self.bytes.len() > self.keep.saturating_mul(2) {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let over = self.bytes.len().saturating_sub(self.keep);
        self.bytes.drain(..over);
        self.dropped += over as u64;
    }

    /// The kept bytes, behind a line that says what is missing, and the number of missing bytes.
    pub fn finish(mut self) -> (Vec<u8>, u64) {
        self.trim();
        if self.dropped == 0 {
            return (self.bytes, 0);
        }
        // The cut may have halved a character; its rest would be shown as rubbish.
        let halved = self.bytes.iter().take(3).take_while(|b| **b & 0xc0 == 0x80).count();
        let dropped = self.dropped + halved as u64;
        let mut out = format!("[{dropped} bytes dropped]\n").into_bytes();
        out.extend_from_slice(&self.bytes[halved..]);
        (out, dropped)
    }

    /// The last line that says something.
    pub fn last_line(&self) -> Option<String> {
        let line = self.bytes.rsplit(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty())?;
        Some(String::from_utf8_lossy(line.trim_ascii()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_fits_is_kept_as_it_came() {
        let mut tail = Tail::new(8);
        tail.push(b"12345");
        tail.push(b"678");
        assert_eq!(tail.finish(), (b"12345678".to_vec(), 0));
    }

    #[test]
    fn dropped_bytes_are_counted_and_said() {
        let mut tail = Tail::new(4);
        for _ in 0..1_000 {
            tail.push(b"0123456789");
            assert!(tail.bytes.len() <= 18);
        }
        assert_eq!(tail.finish(), (b"[9996 bytes dropped]\n6789".to_vec(), 9_996));
    }

    #[test]
    fn a_character_cut_in_half_is_dropped_whole() {
        let mut tail = Tail::new(3);
        tail.push("xüü".as_bytes());
        assert_eq!(tail.finish(), ("[3 bytes dropped]\nü".as_bytes().to_vec(), 3));
    }

    #[test]
    fn keeping_nothing_is_allowed() {
        let mut tail = Tail::new(0);
        tail.push(b"ab");
        assert_eq!(tail.finish(), (b"[2 bytes dropped]\n".to_vec(), 2));
    }

    #[test]
    fn the_last_line_skips_blank_ones() {
        let mut tail = Tail::new(100);
        assert_eq!(tail.last_line(), None);
        tail.push(b"first\nsmtp: connection refused \r\n\n  \n");
        assert_eq!(tail.last_line().as_deref(), Some("smtp: connection refused"));
    }
}
