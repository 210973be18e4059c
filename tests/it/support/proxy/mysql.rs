//! Packets of the MySQL protocol: a length of three bytes, a sequence number, and a body. A packet of the
//! client with number 0 is a command; what comes before the first one is the login.

use std::collections::BTreeMap;

use super::link::{Answer, Said, Wire};

/// One connection.
#[derive(Debug, Default)]
pub struct Mysql {
    statements: BTreeMap<u32, String>,
    prepares: Option<String>,
    /// A command was sent, and nothing of its answer has come.
    waits: bool,
}

const QUERY: u8 = 0x03;
const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;

impl Wire for Mysql {
    fn request(&mut self, bytes: &[u8]) -> Option<(usize, Said)> {
        let (length, body) = packet(bytes)?;
        let is_command = bytes[3] == 0;
        let Some((command, rest)) = body.split_first().filter(|_| is_command) else {
            return Some((length, Said::Other));
        };
        self.waits = true;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let said = match *command {
            QUERY => Said::Runs(text()),
            EXECUTE => Said::Runs(id(rest).and_then(|id| self.statements.get(&id)).cloned().unwrap_or_default()),
            PREPARE => {
                self.prepares = Some(text());
                Said::Other
            }
            _ => Said::Other,
        };
        Some((length, said))
    }

    /// The first packet of an answer says that the statement was carried out, but for rows that are still
    /// being read; nothing that rekindle writes gives back rows on this database.
    fn reply(&mut self, bytes: &[u8]) -> Option<(usize, Answer)> {
        let (length, body) = packet(bytes)?;
        if !std::mem::take(&mut self.waits) {
            return Some((length, Answer::Part));
        }
        if let Some(text) = self.prepares.take()
            && body.first() == Some(&0)
            && let Some(id) = id(&body[1..])
        {
            self.statements.insert(id, text);
        }
        Some((length, Answer::Last))
    }
}

fn packet(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let head = bytes.get(..4)?;
    let length = 4 + (usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16);
    Some((length, bytes.get(4..length)?))
}

fn id(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}
