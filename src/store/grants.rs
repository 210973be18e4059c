//! The statement that gives what a server's refusal says is missing, so that nobody has to know it at night.

use crate::config::{Backend, DatabaseUrl};

/// The statement for an administrator of the server, if the refusal tells what is missing. The user's name is
/// the URL's; where it has none, `USER` stands there.
pub fn missing_grant(url: &DatabaseUrl, cause: &str) -> Option<String> {
    let user = url.user().unwrap_or_else(|| "USER".to_owned());
    match url.backend() {
        Backend::Postgres => postgres(&user, cause),
        Backend::Mysql => mysql(url, cause),
        Backend::Sqlite => None,
    }
}

fn postgres(user: &str, cause: &str) -> Option<String> {
    let user = quoted(user);
    if let Some(schema) = behind(cause, "permission denied for schema ") {
        // Whoever may use it and not make tables in it, and whoever may not even look into it, get both.
        return Some(format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user};"));
    }
    let is_rows = ["table ", "relation ", "view ", "sequence "]
        .iter()
        .any(|what| cause.contains(&format!("permission denied for {what}")));
    is_rows.then(|| {
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user};   (or the schema it is in)"
        )
    })
}

/// `CREATE command denied to user 'u'@'h' for table ...`: the user as the server knows him.
fn mysql(url: &DatabaseUrl, cause: &str) -> Option<String> {
    let (verbs, rest) = cause.split_once(" command denied to user ")?;
    let user = rest.split(" for ").next()?.trim();
    let verbs = verbs.rsplit([' ', ':']).next().unwrap_or_default();
    let is_ddl = ["CREATE", "ALTER", "DROP", "INDEX", "REFERENCES"].contains(&verbs);
    let rights = if is_ddl { "ALL" } else { "SELECT, INSERT, UPDATE, DELETE" };
    let database = url.database().unwrap_or_else(|| "DATABASE".to_owned());
    Some(format!("GRANT {rights} ON `{database}`.* TO {user};"))
}

/// The word behind a phrase, as the server wrote it.
fn behind<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(phrase)?;
    let word = rest.split([' ', '\n', ';', ',']).next()?.trim_end_matches(['.', ':']);
    (!word.is_empty()).then_some(word)
}

/// A name as PostgreSQL reads it back.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.is_empty() && name.chars().all(is_plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(url: &str, cause: &str) -> Option<String> {
        missing_grant(&DatabaseUrl::parse(url).unwrap(), cause)
    }

    #[test]
    fn a_refusal_names_the_statement_that_ends_it() {
        let url = "postgres://rekindle@h/d";
        assert_eq!(
            grant(url, "permission denied for schema public").unwrap(),
            "GRANT USAGE, CREATE ON SCHEMA public TO rekindle;"
        );
        assert!(
            grant("postgres://my%20app@h/d", "ERROR: permission denied for table task")
                .unwrap()
                .starts_with("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO \"my app\";")
        );
        assert_eq!(grant(url, "syntax error"), None);
        let cause = "CREATE command denied to user 'rk'@'10.0.0.1' for table `ops`.`meta`";
        assert_eq!(grant("mysql://rk@h/ops", cause).unwrap(), "GRANT ALL ON `ops`.* TO 'rk'@'10.0.0.1';");
        let cause = "could not: UPDATE command denied to user 'rk'@'%' for table `ops`.`task`";
        assert_eq!(
            grant("mysql://rk@h/ops", cause).unwrap(),
            "GRANT SELECT, INSERT, UPDATE, DELETE ON `ops`.* TO 'rk'@'%';"
        );
        assert_eq!(grant("sqlite:/a", "permission denied for schema public"), None);
    }
}
