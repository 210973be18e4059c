//! Frames of PostgreSQL's protocol: a letter, a length that counts itself, and a body; only the first frames
//! of a connection have no letter.

use std::collections::BTreeMap;

use super::link::{Answer, Said, Wire};

/// One connection.
#[derive(Debug, Default)]
pub struct Postgres {
    has_begun: bool,
    statements: BTreeMap<String, String>,
    portals: BTreeMap<String, String>,
}

/// Codes that stand where a protocol version would.
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

impl Wire for Postgres {
    fn request(&mut self, bytes: &[u8]) -> Option<(usize, Said)> {
        if !self.has_begun {
            let length = number(bytes.get(..4)?);
            let code = number(bytes.get(4..8)?) as u32;
            bytes.get(..length)?;
            let wants_tls = code == TLS || code == GSS;
            self.has_begun = !wants_tls;
            return Some((length, if wants_tls { Said::WantsTls } else { Said::Other }));
        }
        let length = 1 + number(bytes.get(1..5)?);
        let body = bytes.get(5..length)?;
        Some((length, self.judge(bytes[0], body)))
    }

    fn reply(&mut self, bytes: &[u8]) -> Option<(usize, Answer)> {
        let length = 1 + number(bytes.get(1..5)?);
        bytes.get(..length)?;
        Some((length, if bytes[0] == b'Z' { Answer::Last } else { Answer::Part }))
    }
}

impl Postgres {
    fn judge(&mut self, letter: u8, body: &[u8]) -> Said {
        let mut words = body.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut word = || words.next().unwrap_or_default();
        match letter {
            b'Q' => return Said::Runs(word()),
            b'P' => {
                self.statements.insert(word(), word());
            }
            b'B' => {
                let portal = word();
                let text = self.statements.get(&word()).cloned().unwrap_or_default();
                self.portals.insert(portal, text);
            }
            b'E' => return Said::Runs(self.portals.get(&word()).cloned().unwrap_or_default()),
            _ => {}
        }
        Said::Other
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}
