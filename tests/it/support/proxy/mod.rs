//! A TCP proxy between an engine and its database that makes the network as bad as a test wants it.
//!
//! One proxy has one *weather* for all its connections, which a test may change at any moment: each way
//! (requests to the server, replies to the client) passes, is late, is held back and arrives after the
//! weather has changed (what TCP makes of a short cut), or is swallowed for ever; connecting may be refused.
//! A connection that lost a byte is reset when the weather changes: going on would be a fault that no
//! network has.
//!
//! Beside it there are *cuts*, each of which strikes once, at a chosen statement: before the statement reaches
//! the server, after the server has carried it out but before the answer comes back, or inside of a frame.
//! A statement inside of a transaction is carried out by the transaction's COMMIT, so that is where its cut
//! strikes. For this the proxy understands the frames of both wire protocols (`postgres.rs`, `mysql.rs`).
//! Each connection is one thread (`link.rs`), so nothing is shared but weather and cuts.

mod cut;
mod link;
mod mysql;
mod postgres;
#[cfg(test)]
mod tests;
mod weather;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use parking_lot::Mutex;
use rekindle::config::{Backend, DatabaseUrl};

use super::wait_until;
use cut::Cuts;
pub use cut::{Cut, Moment};
pub use weather::{Flow, Weather};

/// What all connections of one proxy share.
struct Shared {
    server: SocketAddr,
    backend: Backend,
    weather: Mutex<Weather>,
    /// Goes up when all connections are to be reset.
    resets: Mutex<u64>,
    cuts: Mutex<Cuts>,
    /// The bell of each connection, with its number.
    links: Mutex<BTreeMap<u64, UnixStream>>,
    accept: Mutex<Accept>,
    count: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accept {
    Listening,
    Refusing,
    Ended,
}

/// See the module.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
    /// Keeps the port while nobody listens on it.
    _holder: TcpListener,
}

impl Proxy {
    /// Before the server of this URL, which must name host and port.
    pub fn before(url: &DatabaseUrl) -> Self {
        let (host, port) = url.host_port().expect("the URL names a host");
        let address = format!("{}:{port}", if host == "localhost" { "127.0.0.1" } else { &host });
        Self::start(address.parse().unwrap(), url.backend())
    }

    /// Before this server.
    pub fn start(server: SocketAddr, backend: Backend) -> Self {
        let (holder, port) = hold_a_port();
        let (bell, rope) = UnixStream::pair().unwrap();
        let shared = Arc::new(Shared {
            server,
            backend,
            weather: Mutex::default(),
            resets: Mutex::new(0),
            cuts: Mutex::default(),
            links: Mutex::default(),
            accept: Mutex::new(Accept::Refusing),
            count: AtomicU64::new(1),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || accept_loop(&theirs, port, &rope));
        let proxy = Self { shared, port, bell, thread: Some(thread), _holder: holder };
        proxy.ring();
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The same database through this proxy.
    pub fn url(&self, url: &DatabaseUrl) -> String {
        let (host, port) = url.host_port().unwrap();
        url.expose().replace(&format!("@{host}:{port}/"), &format!("@{}/", self.address()))
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock() = weather;
        self.ring();
    }

    /// Fine weather again.
    pub fn heal(&self) {
        self.set(Weather::default());
    }

    /// Every connection gets a RST.
    pub fn reset_all(&self) {
        *self.shared.resets.lock() += 1;
        let newest = self.shared.links.lock().keys().next_back().copied();
        self.ring();
        // Clients come back at once, so there may be newer ones.
        wait_until(Duration::from_secs(10), || {
            self.shared.links.lock().keys().next().copied() > newest || self.connections() == 0
        });
    }

    /// Lies in wait for a statement.
    pub fn cut(&self, cut: Cut) {
        self.shared.cuts.lock().add(cut);
    }

    /// Waits until every cut has struck.
    pub fn wait_cut(&self, limit: Duration) {
        let waits = || self.shared.cuts.lock().pending();
        super::wait_or(limit, || waits().is_empty(), || format!("never struck: {:?}", waits()));
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.links.lock().len()
    }

    /// How often statements with this text were carried out, or should have been.
    pub fn count(&self, pattern: &str) -> usize {
        self.shared.cuts.lock().count(pattern)
    }

    /// Wakes all threads, and waits until the listener is as it should be.
    fn ring(&self) {
        for mut link in self.shared.links.lock().values() {
            let _ = link.write(&[1]);
        }
        let _ = (&self.bell).write(&[1]);
        let wanted = if self.shared.weather.lock().refuses { Accept::Refusing } else { Accept::Listening };
        wait_until(Duration::from_secs(10), || *self.shared.accept.lock() == wanted);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        *self.shared.accept.lock() = Accept::Ended;
        *self.shared.resets.lock() += 1;
        let _ = (&self.bell).write(&[1]);
        let _ = self.thread.take().map(JoinHandle::join);
        for mut link in self.shared.links.lock().values() {
            let _ = link.write(&[1]);
        }
    }
}

/// A bound socket that never listens: the port stays ours, and connecting is refused.
fn hold_a_port() -> (TcpListener, u16) {
    let holder = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&holder, sockopt::ReuseAddr, &true).unwrap();
    // SAFETY: all zeroes are a valid address, and the kernel reads no more than its size.
    let bound = unsafe {
        let mut any_port: libc::sockaddr_in = std::mem::zeroed();
        any_port.sin_family = libc::AF_INET as libc::sa_family_t;
        any_port.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        libc::bind(holder.as_raw_fd(), (&raw const any_port).cast(), size)
    };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    let holder = TcpListener::from(holder);
    let port = holder.local_addr().unwrap().port();
    (holder, port)
}

fn accept_loop(shared: &Arc<Shared>, port: u16, rope: &UnixStream) {
    let mut listener: Option<TcpListener> = None;
    loop {
        {
            // Under the lock of the weather: a change comes before or after this look, never in between.
            let weather = shared.weather.lock();
            let mut accept = shared.accept.lock();
            if *accept == Accept::Ended {
                return;
            }
            if weather.refuses {
                listener = None;
                *accept = Accept::Refusing;
            } else {
                listener.get_or_insert_with(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
                *accept = Accept::Listening;
            }
        }
        let mut fds = vec![PollFd::new(rope.as_fd(), PollFlags::POLLIN)];
        fds.extend(listener.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, PollTimeout::NONE);
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        if is_ready(0) {
            link::drain(rope);
        } else if is_ready(1)
            && let Some((client, _)) = listener.as_ref().and_then(|l| l.accept().ok())
        {
            begin(shared, client);
        }
    }
}

fn begin(shared: &Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(shared.server) else { return link::reset(client) };
    let (bell, rope) = UnixStream::pair().unwrap();
    let resets = *shared.resets.lock();
    let number = shared.count.fetch_add(1, Ordering::Relaxed);
    shared.links.lock().insert(number, bell);
    let theirs = Arc::clone(shared);
    std::thread::spawn(move || {
        link::Link::new(&theirs, client, server, rope, resets).run();
        theirs.links.lock().remove(&number);
    });
}
