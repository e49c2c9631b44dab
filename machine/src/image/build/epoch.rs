//! From when an image's packages are.

use std::time::Duration;

use super::Recipe;
use crate::image::{ImageError, Progress, say};

/// How long a list's beginning may take to come.
const DEADLINE: Duration = Duration::from_secs(60);
/// How much of a list is read to find its date.
const MOST: usize = 16 * 1024;
/// When no list's date can be had: 2026-01-01. mmdebstrap then says what is wrong.
const OTHERWISE: u64 = 1_767_225_600;

/// The date of the newest of the lists of packages that the recipe uses, in seconds since 1970, or what
/// `SOURCE_DATE_EPOCH` says. Nothing relies on its being true: the lists' signatures are checked by apt later.
pub(super) async fn of(recipe: &Recipe, progress: &Progress) -> Result<u64, ImageError> {
    let told = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    if let Some(text) = told {
        return text.parse().map_err(|_| {
            ImageError::Unexpected(format!("SOURCE_DATE_EPOCH is '{text}', which is no number"))
        });
    }
    let client = reqwest::Client::builder().timeout(DEADLINE).build();
    let Ok(client) = client else { return Ok(OTHERWISE) };
    let mut newest = None;
    for url in recipe.releases {
        match beginning(&client, url).await {
            Ok(text) => newest = newest.max(date_in(&text)),
            Err(error) => say(progress, format!("{url} can't be read: {error}")),
        }
    }
    Ok(newest.unwrap_or(OTHERWISE))
}

async fn beginning(client: &reqwest::Client, url: &str) -> Result<String, reqwest::Error> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut start = Vec::new();
    while start.len() < MOST {
        let Some(chunk) = response.chunk().await? else { break };
        start.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&start).into_owned())
}

/// The seconds since 1970 of a line such as `Date: Sat, 06 Sep 2025 10:11:33 UTC`.
fn date_in(list: &str) -> Option<u64> {
    let line = list.lines().find_map(|line| line.strip_prefix("Date: "))?;
    let mut words = line.split([' ', ':']).filter(|word| !word.is_empty()).skip(1);
    let mut number = || words.next()?.parse::<u64>().ok();
    let day = number()?;
    let month = match words.next()? {
        "Jan" => 1,
        "Feb" => 2,
        "Mar" => 3,
        "Apr" => 4,
        "May" => 5,
        "Jun" => 6,
        "Jul" => 7,
        "Aug" => 8,
        "Sep" => 9,
        "Oct" => 10,
        "Nov" => 11,
        "Dec" => 12,
        _ => return None,
    };
    let mut number = || words.next()?.parse::<u64>().ok();
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    if !(1970..10_000).contains(&year)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Howard Hinnant's `days_from_civil`, for years from 1970 on.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // A year that begins in March has its leap day at its end.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lists_date_is_read() {
        let list = "Origin: Debian\nDate: Sat, 06 Sep 2025 10:11:33 UTC\nValid-Until: never\n";
        assert_eq!(date_in(list), Some(1_757_153_493));
        assert_eq!(date_in("Date: Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(date_in("Date: Thu, 29 Feb 2024 23:59:59 UTC"), Some(1_709_251_199));
        for bad in [
            "",
            "Date:",
            "Date: now",
            "Date: Sat, 06 Foo 2025 10:11:33 UTC",
            "Date: Sat, 99 Sep 2025 1:1:1",
        ] {
            assert_eq!(date_in(bad), None, "{bad}");
        }
    }
}
