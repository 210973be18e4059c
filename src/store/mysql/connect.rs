//! Connecting within a time, and asking the client library whether it can be trusted.
//!
//! The library has timeouts, but diesel gives no way to set them, and a server that accepts and then says
//! nothing hangs it for ever. So connecting is a call of its own thread that is left alone when its time is
//! over. `HANGING_MAX` of them may hang; then no further attempt is made until one of them ends, which
//! keepalives and the limit on unanswered data see to.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, getpeername, setsockopt, sockopt};

use super::MysqlDb;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::patience::{NoAnswer, within};
use crate::store::pool::Settings;
use crate::store::sql::{Row, Sql};

/// See the module.
const HANGING_MAX: usize = 16;

static HANGING: AtomicUsize = AtomicUsize::new(0);

/// Opens a connection, or gives up when `connect_timeout` is over.
pub fn within_its_time(settings: &Settings) -> StoreResult<MysqlDb> {
    let unreachable = |text: String| StoreError::Unreachable { place: settings.place(), source: Cause(text) };
    if HANGING.load(Ordering::Acquire) >= HANGING_MAX {
        return Err(unreachable(format!("{HANGING_MAX} attempts to connect hang; the next follows when one ends")));
    }
    // Set by whoever comes first: the attempt when it ends, or the caller when he leaves.
    let over = Arc::new(AtomicBool::new(false));
    let (theirs, copy) = (Arc::clone(&over), settings.clone());
    // A little longer than whoever asked waits, so that he hears of his own limit, in his own words.
    let answer = within(settings.connect_timeout + settings.connect_timeout / 8, move || {
        let opened = MysqlDb::open_here(&copy);
        if theirs.swap(true, Ordering::AcqRel) {
            HANGING.fetch_sub(1, Ordering::AcqRel);
        }
        opened
    });
    match answer {
        Ok(opened) => opened,
        Err(NoAnswer::Died) => Err(unreachable("the attempt to connect died".into())),
        Err(NoAnswer::Late) => {
            HANGING.fetch_add(1, Ordering::AcqRel);
            if over.swap(true, Ordering::AcqRel) {
                HANGING.fetch_sub(1, Ordering::AcqRel);
            }
            Err(unreachable(format!("no connection within {:?}", settings.connect_timeout)))
        }
    }
}

/// How a connection is to be encrypted, as the URL says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// As the library does it by itself.
    Unsaid,
    /// A connection without it is refused.
    Required,
}

/// What the URL says. diesel's `ssl_mode` names another option in libmariadb than in libmysqlclient and
/// does nothing there, so it is not passed on but looked after here.
pub fn tls(settings: &Settings) -> StoreResult<Tls> {
    match settings.url.parameter("ssl_mode").map(str::to_ascii_lowercase).as_deref() {
        None | Some("disabled" | "preferred") => Ok(Tls::Unsaid),
        Some("required") => Ok(Tls::Required),
        Some(other) => Err(StoreError::Refused(format!(
            "ssl_mode={other} cannot be promised with this client library: write ssl_mode=required and ssl_ca=FILE"
        ))),
    }
}

/// The URL as diesel takes it.
pub fn driver_url(settings: &Settings) -> StoreResult<String> {
    tls(settings)?;
    Ok(settings.url.without_parameter("ssl_mode").expose())
}

const KEEPALIVE_IDLE_S: u32 = 5;
const KEEPALIVE_INTERVAL_S: u32 = 2;
const KEEPALIVE_COUNT: u32 = 3;

/// A peer that vanished is noticed within seconds, not after the hours and minutes that the kernel takes by
/// itself. The library turns keepalives on, but shows diesel no socket to set their times on; so they are set
/// on all sockets of this process that lead to the server's port, which harms none of them.
pub fn keep_alive(settings: &Settings) {
    let Some((_, port)) = settings.url.host_port() else { return };
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers {
        let leads_there = getpeername::<SockaddrStorage>(number).is_ok_and(|peer| port_of(&peer) == Some(port));
        if leads_there {
            set_keepalive(number, settings.statement_timeout);
        }
    }
}

fn port_of(peer: &SockaddrStorage) -> Option<u16> {
    peer.as_sockaddr_in().map(|at| at.port()).or_else(|| peer.as_sockaddr_in6().map(|at| at.port()))
}

fn set_keepalive(number: i32, unanswered: Duration) {
    // SAFETY: the number was open just now and is borrowed for these calls only. If another thread closes it
    // meanwhile, they fail, or set harmless times on the socket that got its number.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let limit_ms = u32::try_from(unanswered.as_millis()).unwrap_or(u32::MAX);
    let set = setsockopt(&socket, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S))
        .and_then(|()| setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S))
        .and_then(|()| setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE_COUNT))
        .and_then(|()| setsockopt(&socket, sockopt::TcpUserTimeout, &limit_ms));
    if let Err(error) = set {
        log::debug!("could not set keepalives: {error}");
    }
}

/// Some releases of the client library return empty texts and bytes where there are some, without an error
/// (CONC-821: 3.3.19, 3.4.9): asked once in the life of a process, before anything is believed.
pub fn check_client(db: &mut MysqlDb) -> StoreResult<()> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let answer = match ANSWER.get() {
        Some(answer) => answer.clone(),
        None => {
            let answer = round_trip(db)?;
            ANSWER.get_or_init(|| answer).clone()
        }
    };
    answer.map_err(|what| refusal(&what))
}

fn refusal(what: &str) -> StoreError {
    StoreError::Refused(format!(
        "the client library {} returns wrong data ({what}): install another release of it \
         (libmariadb 3.3.20 or newer)",
        client_version()
    ))
}

/// Its version, for people.
pub fn client_version() -> String {
    // SAFETY: the library returns a pointer to a constant text that ends with a zero.
    let text = unsafe { std::ffi::CStr::from_ptr(mysqlclient_sys::mysql_get_client_info()) };
    text.to_string_lossy().into_owned()
}

const LENGTHS: [usize; 8] = [1, 70_000, 0, 255, 256, 40_000, 3, 1_000];

/// Texts, bytes and NULLs of many lengths in several rows. Without binds: MariaDB 10.11.19 dies of a
/// statement that has them in the columns of a UNION.
fn round_trip(db: &mut MysqlDb) -> StoreResult<Result<(), String>> {
    let parts: Vec<_> = LENGTHS.iter().enumerate().map(|(at, l)| format!("SELECT {at} AS n, {l} AS l")).collect();
    let text = format!(
        "SELECT d.n, REPEAT('ä', d.l), REPEAT(CAST('b' AS BINARY), d.l), NULL, d.l FROM ({}) d ORDER BY d.n",
        parts.join(" UNION ALL ")
    );
    Ok(is_whole(db.query("check the client library", &Sql { text, binds: Vec::new() })?))
}

/// Whether the rows came as they were asked for; else what is wrong with them.
fn is_whole(rows: Vec<Row>) -> Result<(), String> {
    if rows.len() != LENGTHS.len() {
        return Err(format!("{} rows instead of {}", rows.len(), LENGTHS.len()));
    }
    for (at, (mut row, length)) in rows.into_iter().zip(LENGTHS).enumerate() {
        let (number, text, bytes) = (row.int(), row.text(), row.bytes());
        let (nothing, said) = (row.opt_text(), row.int());
        let whole = usize::try_from(number) == Ok(at)
            && text == "ä".repeat(length)
            && bytes == "b".repeat(length).as_bytes()
            && nothing.is_none()
            && usize::try_from(said) == Ok(length);
        if !whole {
            return Err(format!("row {at}: {} and {} bytes instead of {length}", text.len() / 2, bytes.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::Value;

    /// The rows as a library returns them that `spoils` some.
    fn rows(spoils: impl Fn(usize) -> bool) -> Vec<Row> {
        let row = |(at, length): (usize, usize)| {
            let part = |text: &str| if spoils(at) { Vec::new() } else { text.repeat(length).into_bytes() };
            Row::new(vec![
                Value::Int(at as i64),
                Value::Bytes(part("ä")),
                Value::Bytes(part("b")),
                Value::Null,
                Value::Int(length as i64),
            ])
        };
        LENGTHS.into_iter().enumerate().map(row).collect()
    }

    /// CONC-821, as libmariadb 3.3.19 and 3.4.9 have it: texts and bytes of some rows are empty, without an error.
    #[test]
    fn a_client_library_that_empties_texts_is_refused_by_its_version() {
        assert_eq!(is_whole(rows(|_| false)), Ok(()));
        for (bad, length) in LENGTHS.into_iter().enumerate() {
            let answer = is_whole(rows(|at| at == bad));
            assert_eq!(answer.is_ok(), length == 0, "row {bad} of {length} is empty");
        }
        assert_eq!(is_whole(rows(|_| false).split_off(1)), Err("7 rows instead of 8".to_owned()));
        let what = is_whole(rows(|at| at == 1)).unwrap_err();
        let StoreError::Refused(text) = refusal(&what) else { panic!("it is refused") };
        assert!(text.contains(&client_version()) && text.contains("row 1: 0 and 0 bytes instead of 70000"), "{text}");
        assert!(client_version().starts_with(|c: char| c.is_ascii_digit()), "{}", client_version());
    }
}
