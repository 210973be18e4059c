//! Settings out of the environment: `REKINDLE_SECTION__KEY`, and the few that have names of their own.

use super::host::Host;
use super::source::{Item, Node, Origin, Tree, find, insert};

/// Variables with names of their own, and the keys they set. `REKINDLE_DATABASE__URL` is stronger.
const NAMED: [(&str, &[&str]); 3] = [
    ("REKINDLE_CLUSTER", &["cluster"]),
    ("REKINDLE_DATABASE_URL", &["database", "url"]),
    ("REKINDLE_DATABASE_URL_FILE", &["database", "url_file"]),
];

/// What the environment sets. `below` are the weaker sources: they know how kinds are spelt, which a
/// variable's name cannot say (`REKINDLE_KIND__INVOICE_MAIL__TIMEOUT` is kind `invoice-mail`).
pub(super) fn environment_tree(host: &Host, below: &Tree) -> Tree {
    let mut tree = Tree::new();
    for (name, path) in NAMED {
        if let Some(value) = host.var(name) {
            let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
            insert(&mut tree, &path, node(name, value));
        }
    }
    // An empty one is none, as with the named ones, but for a variable of a kind, which may well be empty.
    let counts = |name: &str, value: &str| !value.is_empty() || name.contains("__ENV__");
    let is_ours = |name: &str| name.starts_with("REKINDLE_") && name.contains("__");
    let structured = host.env.iter().filter(|(name, value)| is_ours(name) && counts(name, value));
    for (name, value) in structured {
        let keys: Vec<&str> = name["REKINDLE_".len()..].split("__").collect();
        insert(&mut tree, &key_path(&keys, below), node(name, value));
    }
    tree
}

fn node(name: &str, value: &str) -> Node {
    Node { item: Item::Raw(value.to_owned()), origin: Origin::Env(name.to_owned()) }
}

/// Keys are lower case, but for names of variables, kinds as they are spelt, and the spans L, K, T, S.
fn key_path(keys: &[&str], below: &Tree) -> Vec<String> {
    let mut path: Vec<String> = keys.iter().map(|key| key.to_lowercase()).collect();
    match keys {
        ["KIND", kind, rest @ ..] => {
            path[1] = spelt_kind(kind, below);
            if let ["ENV", name @ ..] = rest
                && !name.is_empty()
            {
                path.truncate(3);
                path.push(name.join("__"));
            }
        }
        ["ENGINE", "TIMING", span @ ("L" | "K" | "T" | "S")] => path[2] = (*span).to_owned(),
        _ => {}
    }
    path
}

fn spelt_kind(name: &str, below: &Tree) -> String {
    let plain = |name: &str| -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
    };
    let known = match find(below, &["kind"]) {
        Some(Node { item: Item::Table(kinds), .. }) => kinds.keys().find(|known| plain(known) == plain(name)).cloned(),
        _ => None,
    };
    known.unwrap_or_else(|| name.to_lowercase())
}
