//! No text of any program shows a password: whatever it looks like, whoever refuses it.

use std::net::TcpListener;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rekindle::config::DatabaseUrl;
use rekindle::store::{Settings, open};

use super::{Desk, SECRET, said};
use crate::support::{mariadb, postgres};

#[test]
fn no_text_shows_a_password() {
    let desk = Desk::bare();
    let url = desk.url_file(&format!("postgres://u:{SECRET}@127.0.0.1:1/d"));
    for line in ["status", "doctor", "config show", "db status", "task add mail", "config check", "status -vv"] {
        let mut args: Vec<&str> = line.split(' ').collect();
        args.extend(["--database-url-file", &url, "--timeout", "5s"]);
        let said = desk.args(&args);
        assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET), "{line}: {said:?}");
    }
    let said = desk.args(&["status", "--database-url-file", &url]).code(69);
    let tried = format!("u:***@127.0.0.1:1/d  (from {url})");
    assert!(said.err.contains(&tried) && said.err.contains("pg_isready"), "{}", said.err);
    for mode in ["overall", "latency"] {
        let check = desk.check(&format!("-m {mode} --database-url-file {url}"));
        assert!(!check.out.contains(SECRET) && !check.err.contains(SECRET), "{check:?}");
        assert_eq!(check.code, if mode == "overall" { 2 } else { 3 });
    }
    let wrong = ["nonsense://u:geheim-4711@h/d", "postgres://u:geheim-4711#x@h/d", "mysql://u:geheim-4711%@h/d"];
    for wrong in wrong {
        let said = desk.args(&["status", "--database-url-file", &desk.url_file(wrong)]).code(78);
        assert!(!said.err.contains(SECRET), "{said:?}");
    }
}

#[test]
fn a_password_on_the_command_line_is_refused_by_all_three_programs() {
    let desk = Desk::bare();
    let url = format!("postgres://u:{SECRET}@127.0.0.1:1/d");
    let engine = said(desk.command(env!("CARGO_BIN_EXE_rekindle-engine")).args(["--database-url", &url])).code(2);
    for said in [desk.args(&["status", "--database-url", &url]).code(2), engine] {
        assert!(said.err.starts_with("error[E101]: --database-url must not hold a password: everyone"), "{said:?}");
        for way in ["--database-url-file FILE", "password_file", "REKINDLE_DATABASE_URL"] {
            assert!(said.err.contains(way), "{way}: {said:?}");
        }
        assert!(!said.err.contains(SECRET), "{said:?}");
    }
    let check = desk.check(&format!("-m latency --database-url {url}")).code(3).out;
    assert!(check.starts_with("REKINDLE LATENCY UNKNOWN - --database-url must not hold a password"), "{check}");
    assert!(check.contains("--database-url-file FILE") && !check.contains(SECRET), "{check}");
    // In the wrong place it is no flag at all, and is not repeated either.
    let engine = said(desk.command(env!("CARGO_BIN_EXE_rekindle-engine")).arg(&url)).code(2);
    for said in [desk.args(&[&url]).code(2), desk.check(&url).code(3), engine] {
        assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET), "{said:?}");
    }
    // The environment is its user's alone.
    let mut command = desk.command(env!("CARGO_BIN_EXE_rekindle"));
    said(command.env("REKINDLE_DATABASE_URL", &url).arg("status")).code(69);
}

/// Passwords as people and generators make them, and the ways in which people write them into a URL.
fn attempts() -> impl Strategy<Value = (String, String)> {
    let password = prop_oneof!["[!-~]{5,20}", "[ -~äß€]{5,12}", "%?[a-z]{4,9}%[0-9a-g]{0,2}x"];
    (password, 0..3_u8).prop_map(|(password, way)| {
        let written = match way {
            0 => password.clone(),
            1 => password.bytes().map(|byte| format!("%{byte:02X}")).collect(),
            _ => password.replace(['%', '@', '/', '?', '#'], "%25"),
        };
        (password, written)
    })
}

/// What a store says that cannot connect; nothing where the URL is not even taken.
fn complaint(url: &str, password_file: Option<&str>) -> String {
    let parsed = match DatabaseUrl::parse(url) {
        Ok(parsed) => parsed,
        Err(error) => return format!("{error} {error:?}"),
    };
    let url = password_file.map_or(parsed.clone(), |password| parsed.with_password(password));
    let settings = Settings { connect_timeout: Duration::from_millis(200), ..Settings::new(url) };
    let error = match open(vec![settings.clone()], vec![settings], 1) {
        Ok(store) => store.schema_status().expect_err("no such login"),
        Err(error) => error,
    };
    format!("{} {error:?}", error.chain())
}

/// A server that lets in by password, and every way of not coming in: the password is in none of its texts.
fn is_never_shown(server: &str, cases: u32) {
    let (scheme, rest) = server.split_once("://").unwrap();
    let (_, place) = rest.rsplit_once('@').unwrap();
    let (host, _) = place.split_once('/').unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("127.0.0.1:{}/orders", silent.local_addr().unwrap().port());
    let tls = if scheme.starts_with("mysql") { "ssl_mode=required&ssl_ca=/nowhere" } else { "sslmode=verify-full" };
    let places = [
        place.to_owned(),
        format!("{host}/nowhere"),
        format!("{place}?{tls}"),
        "127.0.0.1:1/orders".to_owned(),
        "nowhere.invalid/orders".to_owned(),
    ];
    // This one costs its whole time, so it is asked once.
    assert!(!complaint(&format!("{scheme}://wintermute:{SECRET}@{silent}"), None).contains(SECRET));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(attempts(), 0..places.len()), |((password, written), place)| {
        let place = &places[place];
        let texts = [
            complaint(&format!("{scheme}://wintermute:{written}@{place}"), None),
            complaint(&format!("{scheme}://wintermute@{place}"), Some(&password)),
        ];
        for text in texts {
            for form in [password.as_str(), password.trim(), written.as_str()] {
                prop_assert!(!text.contains(form), "{form:?} in {text}");
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn no_refusal_of_postgres_shows_a_password() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    is_never_shown(&server, 150);
}

#[test]
fn no_refusal_of_mariadb_shows_a_password() {
    let Some(server) = mariadb::server() else { return println!("skipped: REKINDLE_TEST_MARIADB is not set") };
    is_never_shown(&server, 150);
}

#[test]
fn an_engine_that_waits_or_is_refused_shows_no_password() {
    let servers = [postgres::server(), mariadb::server()];
    for server in servers.into_iter().flatten() {
        let (scheme, rest) = server.split_once("://").unwrap();
        let (_, place) = rest.rsplit_once('@').unwrap();
        for (written, code) in [("geheim-4711%40x", 77), ("geheim-4711%zz", 78), ("geheim-4711%00", 78)] {
            let desk = Desk::bare();
            let file = desk.url_file(&format!("{scheme}://wintermute:{written}@{place}"));
            let program = env!("CARGO_BIN_EXE_rekindle-engine");
            let engine = said(desk.command(program).args(["--database-url-file", &file])).code(code);
            assert!(!engine.out.contains(SECRET) && !engine.err.contains(SECRET), "{engine:?}");
        }
    }
}
