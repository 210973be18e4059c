//! What somebody may have meant.

/// The candidate that is closest to `word`, if one is close enough to be a slip of the keyboard.
pub fn guess<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
    let best = candidates.into_iter().min_by_key(distance)?;
    let limit = if word.chars().count() <= 4 { 1 } else { 1 + word.chars().count() / 4 };
    (distance(&best) <= limit).then_some(best)
}

/// `; did you mean slots?`, or nothing.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    guess(word, candidates).map(|best| format!("; did you mean {best}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_guessed_and_strangers_are_not() {
        assert_eq!(guess("slotz", ["name", "slots", "poll"]), Some("slots"));
        assert_eq!(guess("invoice-mial", ["report", "invoice-mail"]), Some("invoice-mail"));
        assert_eq!(guess("l", ["h", "L"]), Some("L"));
        assert_eq!(guess("banana", ["name", "slots"]), None);
        assert_eq!(hint("tiemout", ["timeout"]), "; did you mean timeout?");
        assert_eq!(hint("x", []), "");
    }
}
