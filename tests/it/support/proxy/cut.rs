//! Cuts: where they lie in wait, and when a statement is one that they wait for.

/// When the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The server never sees the request.
    BeforeRequest,
    /// So many bytes of the request reach the server.
    InRequest(usize),
    /// The server has carried it out; the client never hears of it.
    BeforeAnswer,
    /// So many bytes of the answer reach the client.
    InAnswer(usize),
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Cut {
    /// What the statement's text holds.
    pub pattern: String,
    /// The how-many-th of them, from 1.
    pub nth: usize,
    /// When.
    pub moment: Moment,
}

impl Cut {
    /// At the next statement with this text.
    pub fn at(pattern: &str, moment: Moment) -> Self {
        Self { pattern: pattern.into(), nth: 1, moment }
    }

    /// At the n-th.
    pub fn nth(self, nth: usize) -> Self {
        Self { nth, ..self }
    }
}

/// The cuts of a proxy that have not struck yet, and what was carried out.
#[derive(Debug, Default)]
pub struct Cuts {
    waiting: Vec<Cut>,
    done: Vec<Vec<String>>,
}

impl Cuts {
    pub fn add(&mut self, cut: Cut) {
        self.waiting.push(cut);
    }

    pub fn pending(&self) -> Vec<Cut> {
        self.waiting.clone()
    }

    pub fn count(&self, pattern: &str) -> usize {
        self.done.iter().flatten().filter(|text| text.contains(pattern)).count()
    }

    /// These statements are carried out now; one of the cuts may strike.
    fn strike(&mut self, texts: Vec<String>) -> Option<Moment> {
        let mut struck = None;
        for (at, cut) in self.waiting.iter_mut().enumerate() {
            if texts.iter().any(|text| text.contains(&cut.pattern)) {
                cut.nth = cut.nth.saturating_sub(1);
                if cut.nth == 0 && struck.is_none() {
                    struck = Some(at);
                }
            }
        }
        self.done.push(texts);
        struck.map(|at| self.waiting.remove(at).moment)
    }
}

/// Follows the transactions of one connection.
#[derive(Debug, Default)]
pub struct Transactions {
    open: Option<Vec<String>>,
}

impl Transactions {
    /// This statement goes to the server: the cut that strikes now, if any does.
    pub fn see(&mut self, text: &str, cuts: &mut Cuts) -> Option<Moment> {
        let word = text.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        match (word.to_ascii_uppercase().as_str(), &mut self.open) {
            ("BEGIN" | "START", _) => {
                self.open = Some(Vec::new());
                None
            }
            ("ROLLBACK", Some(_)) if !text.to_ascii_uppercase().contains(" TO ") => {
                self.open = None;
                None
            }
            ("COMMIT", Some(_)) => cuts.strike(self.open.take().unwrap_or_default()),
            (_, Some(open)) => {
                open.push(text.to_owned());
                None
            }
            (_, None) => cuts.strike(vec![text.to_owned()]),
        }
    }
}
