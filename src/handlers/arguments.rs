//! Argument placeholders of a command. Payloads come from strangers, hence the narrow rules: only
//! whole arguments, never the program, and no value that a program would read as an option.

use serde_json::Value;

use super::handler::Attempt;

/// Why an argument was refused. Repeating the attempt would not help, here or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// The kind has no command.
    #[error("the kind has an empty command")]
    Empty,
    /// A payload must not choose what is run.
    #[error("the program must not be a placeholder ({0})")]
    Program(String),
    /// Misspelt, most likely.
    #[error("unknown placeholder {0}")]
    Unknown(String),
    /// The payload is no JSON object.
    #[error("{0} needs a payload that is a JSON object")]
    NoObject(String),
    /// The field is missing or null.
    #[error("the payload has no value for {0}")]
    Missing(String),
    /// Objects and arrays have no one form as an argument.
    #[error("the payload's value for {0} is neither text, number nor boolean")]
    Shape(String),
    /// It could be read as an option.
    #[error("the payload's value for {0} starts with '-', which a program could read as an option")]
    Option(String),
    /// An argument cannot hold a zero byte.
    #[error("the value of argument {0} holds a zero byte")]
    Zero(String),
}

/// Fills in the placeholders of a command.
pub fn expand(command: &[String], attempt: &Attempt) -> Result<Vec<String>, ArgumentError> {
    let program = command.first().filter(|p| !p.is_empty()).ok_or(ArgumentError::Empty)?;
    if name_of(program).is_some() {
        return Err(ArgumentError::Program(program.clone()));
    }
    command.iter().map(|argument| expand_one(argument, attempt)).collect()
}

/// The name in `{name}`, if this is a placeholder of ours. Other braces belong to the command (`find -exec {}`).
fn name_of(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix('{')?.strip_suffix('}')?;
    (name.starts_with("task.") || name.starts_with("payload.")).then_some(name)
}

fn expand_one(argument: &str, attempt: &Attempt) -> Result<String, ArgumentError> {
    let value = match name_of(argument) {
        None => argument.to_owned(),
        Some("task.id") => attempt.task.as_i64().to_string(),
        Some("task.attempt") => attempt.attempt.to_string(),
        Some(name) => match name.strip_prefix("payload.") {
            Some(field) => payload_field(argument, field, &attempt.payload)?,
            None => return Err(ArgumentError::Unknown(argument.to_owned())),
        },
    };
    if value.contains('\0') {
        return Err(ArgumentError::Zero(argument.replace('\0', "\\0")));
    }
    Ok(value)
}

fn payload_field(argument: &str, field: &str, payload: &[u8]) -> Result<String, ArgumentError> {
    let owned = || argument.to_owned();
    let Ok(Value::Object(object)) = serde_json::from_slice(payload) else {
        return Err(ArgumentError::NoObject(owned()));
    };
    let text = match object.get(field) {
        None | Some(Value::Null) => return Err(ArgumentError::Missing(owned())),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Array(_) | Value::Object(_)) => return Err(ArgumentError::Shape(owned())),
    };
    if text.starts_with('-') {
        return Err(ArgumentError::Option(owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::testing::attempt;

    fn one(argument: &str, payload: &str) -> Result<String, ArgumentError> {
        let command = ["/bin/echo".to_owned(), argument.to_owned()];
        expand(&command, &attempt(payload)).map(|mut args| args.remove(1))
    }

    #[test]
    fn whole_arguments_are_filled_in() {
        let payload = r#"{"invoice": "R 7; rm", "n": 12, "b": true}"#;
        assert_eq!(one("{task.id}", payload).unwrap(), "4812");
        assert_eq!(one("{task.attempt}", payload).unwrap(), "1");
        assert_eq!(one("{payload.invoice}", payload).unwrap(), "R 7; rm");
        assert_eq!(one("{payload.n}", payload).unwrap(), "12");
        assert_eq!(one("{payload.b}", payload).unwrap(), "true");
    }

    #[test]
    fn other_braces_are_left_alone() {
        for argument in ["{}", "x{task.id}", "--id={payload.n}", "{print $1}"] {
            assert_eq!(one(argument, "{}").unwrap(), argument);
        }
    }

    #[test]
    fn values_that_could_be_options_are_refused() {
        let refused = one("{payload.a}", r#"{"a": "-rf"}"#);
        assert_eq!(refused, Err(ArgumentError::Option("{payload.a}".to_owned())));
        assert!(matches!(one("{payload.a}", r#"{"a": -1}"#), Err(ArgumentError::Option(_))));
    }

    #[test]
    fn what_has_no_value_is_refused() {
        assert!(matches!(one("{payload.a}", "{}"), Err(ArgumentError::Missing(_))));
        assert!(matches!(one("{payload.a}", r#"{"a": null}"#), Err(ArgumentError::Missing(_))));
        assert!(matches!(one("{payload.a}", r#"{"a": [1]}"#), Err(ArgumentError::Shape(_))));
        assert!(matches!(one("{payload.a}", "plain text"), Err(ArgumentError::NoObject(_))));
        assert!(matches!(one("{payload.a}", r#"{"a": "x\u0000"}"#), Err(ArgumentError::Zero(_))));
        assert!(matches!(one("{task.name}", "{}"), Err(ArgumentError::Unknown(_))));
    }

    #[test]
    fn a_payload_does_not_choose_the_program() {
        let command = ["{payload.a}".to_owned()];
        assert!(matches!(expand(&command, &attempt(r#"{"a": "sh"}"#)), Err(ArgumentError::Program(_))));
        assert_eq!(expand(&[], &attempt("")), Err(ArgumentError::Empty));
    }
}
