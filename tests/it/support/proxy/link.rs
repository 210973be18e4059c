//! One connection through the proxy: a thread that reads whole frames from both sides, asks what is to become
//! of them, and writes them when they are due.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use rekindle::clock::{Clock, SystemClock};
use rekindle::config::Backend;
use rekindle::protocol::time::LeaseInstant;

use super::Shared;
use super::cut::{Moment, Transactions};
use super::mysql::Mysql;
use super::postgres::Postgres;
use super::weather::{Flow, Weather};

/// What a frame of the client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Runs nothing.
    Other,
    /// The server runs this text.
    Runs(String),
    /// Answered by the proxy with no: it wants to read along.
    WantsTls,
}

/// What a frame of the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Part,
    /// What was asked for is done.
    Last,
}

/// Splits what one connection says into frames; `None` as long as the first one is not whole.
pub trait Wire: Send {
    fn request(&mut self, bytes: &[u8]) -> Option<(usize, Said)>;
    fn reply(&mut self, bytes: &[u8]) -> Option<(usize, Answer)>;
}

/// One of the two ways.
struct Side {
    from: TcpStream,
    /// Read, and not yet a whole frame.
    part: Vec<u8>,
    /// What is to be written on the other side, and when.
    out: VecDeque<(LeaseInstant, Vec<u8>)>,
    is_open: bool,
}

impl Side {
    fn new(from: TcpStream) -> Self {
        from.set_nodelay(true).unwrap();
        Self { from, part: Vec::new(), out: VecDeque::new(), is_open: true }
    }
}

/// See the module.
pub struct Link {
    shared: Arc<Shared>,
    client: Side,
    server: Side,
    rope: UnixStream,
    wire: Box<dyn Wire>,
    transactions: Transactions,
    resets: u64,
    /// The weather in which a byte was lost.
    lost_in: Option<Weather>,
    /// Answers are not passed on any more; after the last one comes the cut.
    answer_cut: Option<Moment>,
}

/// Why a connection ends.
enum End {
    Closed,
    Reset,
}

impl Link {
    pub fn new(shared: &Arc<Shared>, client: TcpStream, server: TcpStream, rope: UnixStream, resets: u64) -> Self {
        let wire: Box<dyn Wire> = match shared.backend {
            Backend::Mysql => Box::new(Mysql::default()),
            _ => Box::new(Postgres::default()),
        };
        Self {
            shared: Arc::clone(shared),
            client: Side::new(client),
            server: Side::new(server),
            rope,
            wire,
            transactions: Transactions::default(),
            resets,
            lost_in: None,
            answer_cut: None,
        }
    }

    pub fn run(mut self) {
        if matches!(self.until_the_end(), End::Reset) {
            reset(self.client.from);
            reset(self.server.from);
        }
    }

    fn until_the_end(&mut self) -> End {
        loop {
            let weather = *self.shared.weather.lock();
            if *self.shared.resets.lock() != self.resets || self.lost_in.is_some_and(|lost| lost != weather) {
                return End::Reset;
            }
            if let Err(end) = self.turn(weather) {
                return end;
            }
        }
    }

    fn turn(&mut self, weather: Weather) -> Result<(), End> {
        let now = SystemClock.lease_now();
        for (side, flow) in [(&mut self.client, weather.requests), (&mut self.server, weather.replies)] {
            // What was on its way when the weather changed shares the fate of what comes now.
            if flow == Flow::Swallowed && !side.out.is_empty() {
                side.out.clear();
                self.lost_in = Some(weather);
            }
        }
        flush(&mut self.client, &mut self.server.from, weather.requests, now)?;
        flush(&mut self.server, &mut self.client.from, weather.replies, now)?;
        // One that was closed while bytes are being lost stays, for the other side must not learn of it.
        let is_over = |side: &Side| !side.is_open && side.out.is_empty();
        if self.lost_in.is_none() && (is_over(&self.client) || is_over(&self.server)) {
            return Err(End::Closed);
        }
        let (requests, replies) = self.wait(weather, now);
        if *self.shared.weather.lock() != weather {
            return Ok(());
        }
        if requests {
            let chunk = read(&mut self.client)?;
            self.take_requests(&chunk, weather)?;
        }
        if replies {
            let chunk = read(&mut self.server)?;
            self.take_replies(&chunk, weather)?;
        }
        Ok(())
    }

    /// Whether the client, and whether the server, has something to say.
    fn wait(&self, weather: Weather, now: LeaseInstant) -> (bool, bool) {
        let listens = |side: &Side, flow: Flow| side.is_open && flow != Flow::Held;
        let mut fds = vec![PollFd::new(self.rope.as_fd(), PollFlags::POLLIN)];
        let (requests, replies) = (listens(&self.client, weather.requests), listens(&self.server, weather.replies));
        fds.extend(requests.then(|| PollFd::new(self.client.from.as_fd(), PollFlags::POLLIN)));
        fds.extend(replies.then(|| PollFd::new(self.server.from.as_fd(), PollFlags::POLLIN)));
        let due = |side: &Side, flow: Flow| side.out.front().filter(|_| flow != Flow::Held).map(|(due, _)| *due);
        let due = [due(&self.client, weather.requests), due(&self.server, weather.replies)].into_iter().flatten().min();
        // Rounded up: a wait of 0.4 ms must not become a busy loop.
        let limit = due.map_or(PollTimeout::NONE, |due| {
            PollTimeout::try_from(due.since(now) + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut fds, limit);
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[0] {
            drain(&self.rope);
        }
        (requests && ready[1], replies && ready[1 + usize::from(requests)])
    }

    fn take_requests(&mut self, chunk: &[u8], weather: Weather) -> Result<(), End> {
        if weather.requests == Flow::Swallowed {
            self.lost_in = Some(weather);
            return Ok(());
        }
        self.client.part.extend_from_slice(chunk);
        let mut out = Vec::new();
        while let Some((length, said)) = self.wire.request(&self.client.part) {
            let frame: Vec<u8> = self.client.part.drain(..length).collect();
            let moment = match said {
                Said::Runs(text) => self.transactions.see(&text, &mut self.shared.cuts.lock()),
                Said::WantsTls => {
                    self.server.out.push_back((SystemClock.lease_now(), b"N".to_vec()));
                    continue;
                }
                Said::Other => None,
            };
            match moment {
                Some(Moment::BeforeRequest) => return Err(End::Reset),
                Some(Moment::InRequest(bytes)) => {
                    out.extend_from_slice(&frame[..bytes.min(frame.len() - 1)]);
                    let _ = self.server.from.write_all(&out);
                    return Err(End::Closed);
                }
                later => self.answer_cut = later.or(self.answer_cut),
            }
            out.extend_from_slice(&frame);
        }
        push(&mut self.client, out, weather.requests);
        Ok(())
    }

    fn take_replies(&mut self, chunk: &[u8], weather: Weather) -> Result<(), End> {
        if weather.replies == Flow::Swallowed {
            self.lost_in = Some(weather);
            return Ok(());
        }
        self.server.part.extend_from_slice(chunk);
        let mut out = Vec::new();
        while let Some((length, answer)) = self.wire.reply(&self.server.part) {
            let frame: Vec<u8> = self.server.part.drain(..length).collect();
            match (self.answer_cut, answer) {
                (None, _) => out.extend_from_slice(&frame),
                (Some(Moment::InAnswer(bytes)), Answer::Last) => {
                    let _ = self.client.from.write_all(&frame[..bytes.min(frame.len() - 1)]);
                    return Err(End::Closed);
                }
                (Some(_), Answer::Last) => return Err(End::Reset),
                (Some(_), Answer::Part) => {}
            }
        }
        push(&mut self.server, out, weather.replies);
        Ok(())
    }
}

fn push(side: &mut Side, bytes: Vec<u8>, flow: Flow) {
    let late = if let Flow::Late(span) = flow { span } else { Duration::ZERO };
    if !bytes.is_empty() {
        side.out.push_back((SystemClock.lease_now().after(late), bytes));
    }
}

fn flush(side: &mut Side, to: &mut TcpStream, flow: Flow, now: LeaseInstant) -> Result<(), End> {
    while flow != Flow::Held && side.out.front().is_some_and(|(due, _)| *due <= now) {
        let (_, bytes) = side.out.pop_front().expect("there is a first one");
        to.write_all(&bytes).map_err(|_| End::Closed)?;
    }
    Ok(())
}

/// What came; nothing where the side was closed.
fn read(side: &mut Side) -> Result<Vec<u8>, End> {
    let mut chunk = vec![0; 64 << 10];
    match side.from.read(&mut chunk) {
        Ok(length) => {
            side.is_open = length > 0;
            chunk.truncate(length);
            Ok(chunk)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(End::Reset),
        Err(_) => Err(End::Closed),
    }
}

/// Empties a pipe that only wakes.
pub fn drain(rope: &UnixStream) {
    let _ = (&*rope).read(&mut [0; 64]);
}

/// A RST instead of an orderly end.
pub fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(&stream, sockopt::Linger, &at_once);
}
