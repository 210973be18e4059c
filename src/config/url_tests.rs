//! What a URL may look like, and that none of its secrets is ever shown.

use proptest::prelude::*;

use super::*;
use crate::config::secret;

fn url(text: &str) -> DatabaseUrl {
    DatabaseUrl::parse(text).unwrap()
}

#[test]
fn schemes_name_their_backend() {
    assert_eq!(url("sqlite:a.db").sqlite_path(), Some(Path::new("a.db")));
    assert_eq!(url("sqlite:///var/a b.db").sqlite_path(), Some(Path::new("/var/a b.db")));
    assert_eq!(url("sqlite:/var/a.db").to_string(), "sqlite:/var/a.db");
    assert_eq!(url("postgresql://h/d").backend(), Backend::Postgres);
    assert_eq!(url("mariadb://h/d").expose(), "mysql://h/d");
    assert_eq!(url("postgres:///d?host=/run/postgresql").host_port(), None);
    assert_eq!(url("postgres://u@db1,db2:5433/d").host_port(), Some(("db1".into(), 5_432)));
    assert_eq!(url("mysql://u@[::1]:3307/d").host_port(), Some(("::1".into(), 3_307)));
}

#[test]
fn no_way_of_printing_shows_a_password() {
    for text in [
        "postgres://u:geheim@h/d",
        "postgres://u:a@geheim@h:5432/d",
        "postgres://:geheim@h/d",
        "postgres://u@h/d?sslmode=require&password=geheim",
        "postgres://h/d?PASSWORD=geheim&x=1",
        "postgres://h/d?p%61ssword=geheim",
        "mysql://u:geheim:x@h/d",
    ] {
        let url = url(text);
        assert!(url.has_password(), "{text}");
        for shown in [url.to_string(), format!("{url:?}"), format!("{url:#?}"), format!("{:?}", Some(&url))] {
            assert!(!shown.contains("geheim"), "{shown}");
        }
        assert!(url.expose().contains("geheim"));
    }
    assert_eq!(url("postgres://u:geheim@h/d").to_string(), "postgres://u:***@h/d");
    assert_eq!(url("postgres://u:a@b@h/d").expose(), "postgres://u:a%40b@h/d");
    assert_eq!(
        url("postgres://h/d?password=x&a=b&sslmode=require").to_string(),
        "postgres://h/d?password=***&a=***&sslmode=require"
    );
    for secret in ["scram_client_key", "scram_server_key", "sslpassword", "oauth_client_secret"] {
        let url = url(&format!("postgres://u@h/d?{secret}=geheim"));
        assert_eq!(url.to_string(), format!("postgres://u@h/d?{secret}=***"));
        assert!(url.has_secret() && !url.has_password(), "{secret} logs nobody in");
    }
}

#[test]
fn a_parameter_is_read_and_left_out() {
    let with = url("mysql://u@h/d?ssl_mode=required&ssl_ca=/a");
    assert_eq!((with.parameter("ssl_mode"), with.parameter("ssl")), (Some("required"), None));
    assert_eq!(with.without_parameter("ssl_mode").expose(), "mysql://u@h/d?ssl_ca=/a");
    assert_eq!(with.without_parameter("ssl_mode").without_parameter("ssl_ca").expose(), "mysql://u@h/d");
    assert_eq!(url("sqlite:/a").parameter("x"), None);
}

#[test]
fn an_address_of_several_hosts_is_several_addresses() {
    let split = |text: &str| url(text).split_hosts().iter().map(DatabaseUrl::expose).collect::<Vec<_>>();
    assert_eq!(
        split("postgres://u:p@a,[::1]:5433/d?x=1"),
        ["postgres://u:p@a/d?x=1", "postgres://u:p@[::1]:5433/d?x=1"]
    );
    for whole in ["postgres://u@a/d", "postgres://a,b/d?target_session_attrs=any", "mysql://u@a/d", "sqlite:/a,b"] {
        assert_eq!(split(whole), [whole]);
    }
}

#[test]
fn a_parameter_is_added_where_none_is_whatever_stands_elsewhere() {
    let with = |text: &str| url(text).with_default("application_name", "rekindle a b&c=%20").expose();
    let value = "application_name=rekindle%20a%20b%26c%3D%2520";
    assert_eq!(with("postgres://h/d"), format!("postgres://h/d?{value}"));
    assert_eq!(with("postgres://h/d?a=1"), format!("postgres://h/d?a=1&{value}"));
    // Its name as a part of a password, of a database's name, of another parameter's name or value.
    for there in ["u:application_name=@h/d", "h/application_name=1", "h/d?fallback_application_name=x"] {
        assert!(with(&format!("postgres://{there}")).ends_with(value), "{there}");
    }
    for there in ["application_name=mine", "application_name=", "%61pplication_name=mine"] {
        let text = format!("postgres://h/d?a=1&{there}");
        assert_eq!(with(&text), text);
    }
    assert_eq!(url("sqlite:/a").with_default("a", "b").expose(), "sqlite:/a");
}

#[test]
fn a_password_from_a_file_is_inserted_only_where_none_is() {
    let with = url("postgres://u@h/d").with_password("a b@/");
    assert_eq!(with.expose(), "postgres://u:a%20b%40%2F@h/d");
    assert_eq!(with.to_string(), "postgres://u:***@h/d");
    assert_eq!(url("postgres://u:x@h/d").with_password("y").expose(), "postgres://u:x@h/d");
    assert_eq!(url("sqlite:/a").with_password("y").expose(), "sqlite:/a");
}

#[test]
fn wrong_urls_are_refused_without_repeating_them() {
    for (text, error) in [
        ("", UrlError::Empty),
        ("geheim", UrlError::Scheme),
        ("oracle://u:geheim@h/d", UrlError::Scheme),
        ("postgres:geheim", UrlError::Scheme),
        ("postgres://u:ge heim@h/d", UrlError::Blank),
        ("postgres://u:geheim/x@h/d", UrlError::Encoding),
        ("postgres://u:geheim?x@h/d", UrlError::Encoding),
        ("postgres://u:geheim#x@h/d", UrlError::Encoding),
        ("postgres://u:12/d?x@geheim@h/d", UrlError::Encoding),
        ("postgres://u:12/d?x=geheim@h/d", UrlError::Encoding),
        ("postgres://u:ge%heim@h/d", UrlError::Percent),
        ("postgres://u:geheim%@h/d", UrlError::Percent),
        ("postgres://u:geheim%00@h/d", UrlError::Percent),
        ("mysql://u:geheim%4@h/d", UrlError::Percent),
        ("postgres://u@h/d?password=geheim%zz", UrlError::Percent),
        ("postgres://u@h/d?password=geheim=x", UrlError::Pair),
        ("postgres://u@h/d?geheim", UrlError::Pair),
        ("postgres://u:geheim@[::1/d", UrlError::Brackets),
        ("postgres://h:geheim/d", UrlError::Port),
        ("postgres://h:0/d", UrlError::Port),
        ("postgres://u:geheim@h", UrlError::NoDatabase),
        ("postgres://u:geheim@h/", UrlError::NoDatabase),
        ("mysql:///d", UrlError::NoHost),
        ("mysql://u:geheim@h1,h2/d", UrlError::OneHost),
        ("mysql://u:geheim@h/d/e", UrlError::OneHost),
        ("mysql://u:geheim@h/d?ssl-mode=required", UrlError::Parameter("ssl-mode".into())),
        ("mysql://u:geheim@h/d?ssl_mode=required&tls=true", UrlError::Parameter("tls".into())),
        ("mysql://u:geheim@h/d?ssl_ca=/a.pem", UrlError::NoSslMode),
        ("sqlite:", UrlError::NoFile),
        ("sqlite://", UrlError::NoFile),
        ("sqlite://a.db", UrlError::SqliteHost),
        ("sqlite::memory:", UrlError::Memory),
        ("sqlite:/a?mode=ro", UrlError::SqliteOptions),
    ] {
        let refused = DatabaseUrl::parse(text).unwrap_err();
        assert_eq!(refused, error, "{text}");
        assert!(!format!("{refused} {refused:?}").contains("geheim"));
    }
}

/// A password as people and generators make them, written into a URL in one of the ways that people try.
fn passwords() -> impl Strategy<Value = String> {
    prop_oneof!["[!-~]{4,24}", "[ -~äß€%&=/?#@:\\[\\]\"'\\\\]{4,16}", "%?[a-z]{3,9}%[0-9a-g]{0,2}"]
}

/// Whether somebody who reads the text learns the password: as it is, or as it stands in a URL.
fn shows(text: &str, password: &str) -> bool {
    let squeezed = password.split_whitespace().collect::<Vec<_>>().join(" ");
    [password, &secret::encode(password.as_bytes()), &squeezed]
        .iter()
        .any(|form| !form.is_empty() && text.contains(*form))
}

proptest! {
    /// Right or wrong, as written or encoded, as a part of its own or a parameter: no way of printing shows it.
    #[test]
    fn no_password_is_ever_shown(password in passwords(), scheme in "postgres|mysql", is_encoded: bool, is_parameter: bool) {
        // A password that is a part of the rest of the address stands there whatever is done.
        prop_assume!(!shows("postgres://joe:***@db1.example.net:5433/orders?password=***&sslmode=require", &password));
        prop_assume!(!shows(&every_complaint(), &password));
        let written = if is_encoded { secret::encode(password.as_bytes()) } else { password.clone() };
        let text = match is_parameter {
            true => format!("{scheme}://joe@db1.example.net:5433/orders?password={written}&sslmode=require"),
            false => format!("{scheme}://joe:{written}@db1.example.net:5433/orders"),
        };
        match DatabaseUrl::parse(&text) {
            Err(error) => prop_assert!(!shows(&format!("{error} {error:?}"), &password), "{error:?}"),
            Ok(url) => {
                prop_assert!(!shows(&format!("{url} {url:?}"), &password), "{url}");
                // What a client library was given, as it stands there and decoded.
                let given = secret::encode_anew(&written);
                for quoted in [url.expose(), secret::decode(&given).into_owned(), given] {
                    let said = url.redact(&format!("invalid token: \"{quoted}\" (see the manual)"));
                    prop_assert!(!shows(&said, &password), "{said}");
                }
            }
        }
    }

    /// A URL that was taken means the same to every client library, and to whoever takes it again.
    #[test]
    fn an_exposed_url_is_read_alike_again(password in passwords()) {
        let url = url("postgres://joe@h/d").with_password(&password);
        prop_assert_eq!(&url, &DatabaseUrl::parse(&url.expose()).unwrap());
        let (_, tail) = url.expose().split_once("joe:").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        prop_assert_eq!(&*secret::decode(tail.strip_suffix("@h/d").unwrap()), password.as_str());
    }
}

/// The fixed texts of all complaints, which a password may be a part of by chance.
fn every_complaint() -> String {
    use UrlError::*;
    let all = [
        Empty,
        Scheme,
        Blank,
        NoFile,
        Memory,
        SqliteHost,
        SqliteOptions,
        Encoding,
        Percent,
        Pair,
        Brackets,
        Port,
        NoHost,
        OneHost,
        Parameter("password".into()),
        NoSslMode,
        NoDatabase,
    ];
    all.map(|error| format!("{error} {error:?} DatabaseUrl()")).join(" ") + "invalid token (see the manual)"
}
