//! The proxy against a server that writes down what it gets and answers everything.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rekindle::clock::{Clock, SystemClock};
use rekindle::config::Backend;

use super::{Cut, Flow, Moment, Proxy, Weather};
use crate::support::wait_until;

const SOON: Duration = Duration::from_secs(5);

/// What the server got.
type Got = Arc<Mutex<Vec<u8>>>;

/// Answers each `Z` that it reads with a frame of PostgreSQL, or each `\x01` with a packet of MySQL.
fn server(backend: Backend) -> (Proxy, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let got = Got::default();
    let theirs = Arc::clone(&got);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let got = Arc::clone(&theirs);
            std::thread::spawn(move || answer(stream, &got, backend));
        }
    });
    (Proxy::start(address, backend), got)
}

fn answer(mut stream: TcpStream, got: &Got, backend: Backend) {
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|n| n > 0) {
        got.lock().push(byte[0]);
        let reply: &[u8] = match (byte[0], backend) {
            (b'!', Backend::Mysql) => &[5, 0, 0, 1, 0, 7, 0, 0, 0],
            (b'!', _) => b"Z\0\0\0\x05I",
            _ => continue,
        };
        let _ = stream.write_all(reply);
    }
}

fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// A frame of PostgreSQL; every text ends with `!`, which the server answers.
fn frame(letter: u8, body: &[u8]) -> Vec<u8> {
    [&[letter][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

fn query(text: &str) -> Vec<u8> {
    frame(b'Q', format!("{text}!\0").as_bytes())
}

fn login() -> Vec<u8> {
    [&9u32.to_be_bytes()[..], &0x0003_0000u32.to_be_bytes(), b"!"].concat()
}

/// Connected and logged in.
fn session(proxy: &Proxy) -> TcpStream {
    let mut stream = client(proxy);
    ask(&mut stream, &login());
    stream
}

fn ask(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).unwrap();
    hear(stream).unwrap();
}

fn hear(stream: &mut TcpStream) -> std::io::Result<[u8; 6]> {
    let mut reply = [0; 6];
    stream.read_exact(&mut reply).map(|()| reply)
}

fn has(got: &Got, text: &str) -> bool {
    got.lock().windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn fine_weather_passes_and_bad_weather_delays_each_way() {
    let (proxy, got) = server(Backend::Postgres);
    let mut stream = session(&proxy);
    ask(&mut stream, &query("one"));
    assert!(has(&got, "one") && proxy.count("one") == 1 && proxy.connections() == 1);
    proxy.set(Weather::late(Duration::from_millis(60)));
    let began = SystemClock.lease_now();
    ask(&mut stream, &query("two"));
    let took = SystemClock.lease_now().since(began);
    assert!(took >= Duration::from_millis(120) && took < SOON, "{took:?}");
    drop(stream);
    wait_until(SOON, || proxy.connections() == 0);
}

#[test]
fn held_bytes_arrive_later_and_swallowed_ones_never() {
    let (proxy, got) = server(Backend::Postgres);
    let mut stream = session(&proxy);
    proxy.set(Weather::held());
    stream.write_all(&query("held")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(hear(&mut stream).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!has(&got, "held"));
    stream.set_read_timeout(Some(SOON)).unwrap();
    proxy.heal();
    hear(&mut stream).unwrap();
    assert!(has(&got, "held"));

    proxy.set(Weather::blackhole());
    stream.write_all(&query("gone")).unwrap();
    // One that connects now is let in and hears nothing.
    let mut late = client(&proxy);
    late.write_all(&login()).unwrap();
    late.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(hear(&mut late).unwrap_err().kind(), ErrorKind::WouldBlock);
    proxy.heal();
    assert_eq!(hear(&mut stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!has(&got, "gone"));
}

#[test]
fn each_way_can_be_lost_alone() {
    let (proxy, got) = server(Backend::Postgres);
    for (weather, text, arrives) in
        [(Weather::requests_lost(), "unsent", false), (Weather::replies_lost(), "unheard", true)]
    {
        let mut stream = session(&proxy);
        proxy.set(weather);
        stream.write_all(&query(text)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(hear(&mut stream).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(has(&got, text), arrives);
        proxy.heal();
        assert_eq!(hear(&mut stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn refused_is_refused_and_the_port_stays() {
    let (proxy, _got) = server(Backend::Postgres);
    let mut old = session(&proxy);
    for _ in 0..3 {
        proxy.set(Weather::refusing());
        assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        ask(&mut old, &query("old ones go on"));
        proxy.heal();
        session(&proxy);
    }
    proxy.reset_all();
    assert_eq!(hear(&mut old).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_cut_strikes_once_and_exactly_where_it_lies() {
    let (proxy, got) = server(Backend::Postgres);
    let one = |moment, text: &str| {
        proxy.cut(Cut::at(text, moment).nth(2));
        let mut stream = session(&proxy);
        ask(&mut stream, &query(text));
        let before = got.lock().len();
        stream.write_all(&query(text)).unwrap();
        let mut heard = Vec::new();
        let end = stream.read_to_end(&mut heard).map_err(|error| error.kind());
        proxy.wait_cut(SOON);
        ask(&mut session(&proxy), &query(text));
        let all = got.lock()[before..].iter().filter(|byte| **byte == b'!').count();
        // The later session's login and query are two.
        (all - 2, heard.len(), end)
    };
    let reset = Err(ErrorKind::ConnectionReset);
    assert_eq!(one(Moment::BeforeRequest, "a"), (0, 0, reset));
    assert_eq!(one(Moment::InRequest(6), "b"), (0, 0, Ok(0)));
    assert_eq!(one(Moment::BeforeAnswer, "c"), (1, 0, reset));
    assert_eq!(one(Moment::InAnswer(3), "d"), (1, 3, Ok(3)));
}

#[test]
fn a_statement_of_a_transaction_is_cut_at_its_commit() {
    let (proxy, got) = server(Backend::Postgres);
    proxy.cut(Cut::at("UPDATE t", Moment::BeforeRequest));
    let mut stream = session(&proxy);
    for text in ["BEGIN", "UPDATE t", "ROLLBACK", "BEGIN", "UPDATE u", "COMMIT", "BEGIN", "UPDATE t", "SELECT 1"] {
        ask(&mut stream, &query(text));
    }
    assert_eq!((proxy.count("UPDATE u"), proxy.count("UPDATE t")), (1, 0));
    got.lock().clear();
    stream.write_all(&query("COMMIT")).unwrap();
    assert_eq!(hear(&mut stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!has(&got, "COMMIT"));
    proxy.wait_cut(SOON);
}

#[test]
fn prepared_statements_are_known_by_their_text() {
    let (proxy, got) = server(Backend::Postgres);
    proxy.cut(Cut::at("UPDATE t", Moment::BeforeAnswer));
    let mut stream = client(&proxy);
    // It wants to speak TLS first, and hears no.
    let tls = [&8u32.to_be_bytes()[..], &80_877_103u32.to_be_bytes()].concat();
    stream.write_all(&tls).unwrap();
    let mut no = [0];
    stream.read_exact(&mut no).unwrap();
    assert_eq!(&no, b"N");
    ask(&mut stream, &login());
    ask(&mut stream, &[frame(b'P', b"s1\0UPDATE t\0\0\0"), frame(b'S', b"!")].concat());
    assert_eq!(proxy.count("UPDATE t"), 0);
    let run = [frame(b'B', b"\0s1\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0"), frame(b'S', b"!")].concat();
    // In two pieces, as a network may deliver it.
    stream.write_all(&run[..9]).unwrap();
    wait_until(SOON, || proxy.connections() == 1);
    stream.write_all(&run[9..]).unwrap();
    assert_eq!(hear(&mut stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!((proxy.count("UPDATE t"), got.lock().iter().filter(|b| **b == b'!').count()), (1, 3));
}

#[test]
fn commands_of_mysql_are_understood() {
    let (proxy, got) = server(Backend::Mysql);
    proxy.cut(Cut::at("UPDATE t", Moment::BeforeRequest));
    proxy.cut(Cut::at("UPDATE u", Moment::BeforeAnswer));
    let packet = |number: u8, body: &[u8]| [&[u8::try_from(body.len()).unwrap(), 0, 0, number][..], body].concat();
    let command = |code: u8, text: &str| packet(0, &[&[code], text.as_bytes()].concat());
    let ask = |stream: &mut TcpStream, request: &[u8]| {
        stream.write_all(request).unwrap();
        stream.read_exact(&mut [0; 9])
    };
    let prepared = |text: &str| {
        let mut stream = client(&proxy);
        ask(&mut stream, &packet(1, b"login!")).unwrap();
        ask(&mut stream, &command(0x16, text)).unwrap();
        stream
    };
    // The server calls every prepared statement the seventh.
    let execute = packet(0, &[0x17, 7, 0, 0, 0, b'!']);
    let mut stream = prepared("UPDATE t!");
    ask(&mut stream, &command(0x03, "BEGIN!")).unwrap();
    ask(&mut stream, &execute).unwrap();
    got.lock().clear();
    let end = ask(&mut stream, &command(0x03, "COMMIT!"));
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!has(&got, "COMMIT"));
    let mut stream = prepared("UPDATE u!");
    got.lock().clear();
    assert_eq!(ask(&mut stream, &execute).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(got.lock().last(), Some(&b'!'));
    proxy.wait_cut(SOON);
    assert_eq!(Weather::both(Flow::Pass), Weather::default());
}
