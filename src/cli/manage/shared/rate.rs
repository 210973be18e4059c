//! `--rate 20/s`: how fast a bulk command may go.

use std::time::Duration;

/// So many in such a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    per_second: f64,
}

/// For clap: `20/s`, `100/m`, `1000/h`. A bare number is refused: nobody remembers what it meant.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("{text:?} is not a rate; write for example 20/s, 100/m or 5000/h");
    let Some((number, unit)) = text.trim().split_once('/') else {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        return Err(if is_number { format!("{text:?} has no unit; did you mean {text}/s?") } else { wrong() });
    };
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong()),
    };
    let number: u32 = number.trim().parse().map_err(|_| wrong())?;
    if number == 0 {
        return Err("a rate of 0 would never end".to_owned());
    }
    Ok(Rate { per_second: f64::from(number) / seconds })
}

impl Rate {
    /// How many at once: what half a second allows, so that the rate holds within a second too.
    pub fn batch(self, most: usize) -> usize {
        ((self.per_second / 2.0) as usize).clamp(1, most)
    }

    /// Not before this long after the beginning may the next come when `done` are done.
    pub fn due(self, done: usize) -> Duration {
        Duration::try_from_secs_f64(done as f64 / self.per_second).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_says_how_many_at_once_and_when_the_next_are_due() {
        let rate = parse_rate("20/s").unwrap();
        assert_eq!((rate.batch(500), rate.due(0), rate.due(30)), (10, Duration::ZERO, Duration::from_millis(1_500)));
        assert_eq!(parse_rate("6/m").unwrap().due(1), Duration::from_secs(10));
        assert_eq!((parse_rate("1/h").unwrap().batch(500), parse_rate("90000/s").unwrap().batch(500)), (1, 500));
    }

    #[test]
    fn what_is_no_rate_is_refused_with_a_hint() {
        assert!(parse_rate("20").unwrap_err().contains("did you mean 20/s?"));
        assert!(parse_rate("0/s").unwrap_err().contains("never end"));
        for text in ["", "x", "20/d", "-1/s", "1.5/s", "/s"] {
            assert!(parse_rate(text).unwrap_err().contains("write for example"), "{text}");
        }
    }
}
