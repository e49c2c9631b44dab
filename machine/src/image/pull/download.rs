//! One file over HTTP, in spite of connections that break, servers that stall, and a program that ends.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use super::checksum::Checksum;
use crate::image::{ImageError, Progress, say};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// How long is waited for a server, and how often it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The longest time without a byte.
    pub silence: Duration,
    /// The time before the first new try; it doubles with each that brings nothing.
    pub pause: Duration,
    /// Tries in a row that bring nothing.
    pub tries: u32,
    /// The longest time for all of it.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            tries: 6,
            whole: Duration::from_secs(12 * 3600),
        }
    }
}

pub(super) fn client() -> Result<reqwest::Client, ImageError> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("golem-provider/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(30))
        .build();
    client.map_err(|error| ImageError::Unexpected(format!("no HTTP client: {}", reason(&error))))
}

/// What an HTTP error comes from: its outermost sentence says next to nothing.
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    super::printable(&innermost.to_string())
}

/// A file that is wanted, and what has come of it.
pub(super) struct Fetch<'a> {
    pub(super) client: &'a reqwest::Client,
    pub(super) url: &'a str,
    pub(super) checksum: &'a Checksum,
    /// Holds what has come so far.
    pub(super) file: &'a Path,
    /// Most bytes.
    pub(super) most: u64,
    pub(super) patience: Patience,
}

/// Why one try did not bring the rest.
enum Broken {
    /// Another one may.
    Again { received: u64, why: String },
    /// What is there is of no use: from the beginning.
    Anew(String),
    /// No other will.
    Never(ImageError),
}

/// Where the server's bytes go, and how many there will be.
struct Plan {
    start: u64,
    total: Option<u64>,
}

impl Fetch<'_> {
    /// Fetches until the file is whole and right.
    pub(super) async fn run(&self, progress: &Progress) -> Result<(), ImageError> {
        match timeout(self.patience.whole, self.until_right(progress)).await {
            Ok(done) => done,
            Err(_) => Err(self.server(format!(
                "it has not given the file within {} s; try again, it goes on from there",
                self.patience.whole.as_secs()
            ))),
        }
    }

    async fn until_right(&self, progress: &Progress) -> Result<(), ImageError> {
        // What was there before may be of another file: then it is fetched once more, from its beginning.
        let mut resumed = self.have()? > 0;
        if resumed {
            say(progress, format!("{} MiB are here already", self.have()? >> 20));
        }
        loop {
            self.whole(&mut resumed, progress).await?;
            say(progress, "checking what has come");
            let (checksum, path) = (self.checksum.clone(), self.file.to_owned());
            let checking = tokio::task::spawn_blocking(move || checksum.is_of(&path));
            let right =
                checking.await.map_err(|error| ImageError::Unexpected(error.to_string()))?;
            if right.map_err(ImageError::io("read", self.file))? {
                return Ok(());
            }
            self.empty()?;
            if !resumed {
                return Err(ImageError::WrongContent {
                    url: self.url.to_owned(),
                    expected: self.checksum.clone(),
                });
            }
            say(progress, "it is not what it should be: once more from its beginning");
            resumed = false;
        }
    }

    /// Fetches until all bytes are there. Sets `resumed` when they came in more than one try.
    async fn whole(&self, resumed: &mut bool, progress: &Progress) -> Result<(), ImageError> {
        let mut fruitless = 0;
        let mut anew = 0;
        loop {
            let why = match self.attempt(progress).await {
                Ok(()) => return Ok(()),
                Err(Broken::Never(error)) => return Err(error),
                Err(Broken::Anew(why)) => {
                    self.empty()?;
                    anew += 1;
                    if anew > 2 {
                        return Err(self.server(why));
                    }
                    *resumed = false;
                    why
                }
                Err(Broken::Again { received, why }) => {
                    fruitless = if received > 0 { 0 } else { fruitless + 1 };
                    *resumed = true;
                    why
                }
            };
            if fruitless >= self.patience.tries {
                return Err(self.server(format!("{why}; what has come is kept, try again later")));
            }
            let pause = self.patience.pause * 2u32.pow(fruitless.min(6));
            say(progress, format!("{why}; trying again"));
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, progress: &Progress) -> Result<(), Broken> {
        let have = self.have().map_err(Broken::Never)?;
        let mut request = self.client.get(self.url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let again = |why| Broken::Again { received: 0, why };
        let response = match timeout(self.patience.silence, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(again(reason(&error))),
            Err(_) => return Err(again("the server does not answer".to_owned())),
        };
        let Some(plan) = self.plan(&response, have)? else { return Ok(()) };
        if plan.total.is_some_and(|total| total > self.most) {
            return Err(Broken::Never(self.too_large()));
        }
        self.receive(response, &plan, progress).await
    }

    /// What the server is about to send; nothing when all is there.
    fn plan(&self, response: &Response, have: u64) -> Result<Option<Plan>, Broken> {
        let status = response.status();
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        match status {
            StatusCode::OK => Ok(Some(Plan { start: 0, total: response.content_length() })),
            StatusCode::PARTIAL_CONTENT => match range.and_then(parse_range) {
                Some((start, total)) if start == have => Ok(Some(Plan { start, total })),
                _ => {
                    Err(Broken::Anew("the server sends another part than was asked for".to_owned()))
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = range.and_then(|text| text.strip_prefix("bytes */")?.parse().ok());
                if total == Some(have) {
                    return Ok(None);
                }
                Err(Broken::Anew(
                    "what is here is not the beginning of the server's file".to_owned(),
                ))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Broken::Again { received: 0, why: format!("the server answers {status}") })
            }
            status => Err(Broken::Never(self.server(format!("it answers {status}")))),
        }
    }

    async fn receive(
        &self,
        mut response: Response,
        plan: &Plan,
        progress: &Progress,
    ) -> Result<(), Broken> {
        let failed = || {
            let said = ImageError::io("write", self.file);
            |error| Broken::Never(said(error))
        };
        let mut file = File::options().write(true).open(self.file).map_err(failed())?;
        file.set_len(plan.start).map_err(failed())?;
        file.seek(SeekFrom::Start(plan.start)).map_err(failed())?;
        let mut at = plan.start;
        let mut told = Instant::now();
        let broken = loop {
            let chunk = match timeout(self.patience.silence, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) if plan.total.is_none_or(|total| total == at) => break None,
                Ok(Ok(None)) => break Some("the server ended before the end".to_owned()),
                Ok(Err(error)) => break Some(format!("the connection broke: {}", reason(&error))),
                Err(_) => break Some("the server has gone silent".to_owned()),
            };
            at += chunk.len() as u64;
            if at > self.most {
                self.empty().map_err(Broken::Never)?;
                return Err(Broken::Never(self.too_large()));
            }
            if plan.total.is_some_and(|total| at > total) {
                return Err(Broken::Anew("the server sends more than it said".to_owned()));
            }
            file.write_all(&chunk).map_err(failed())?;
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                say(progress, far(at, plan.total));
            }
        };
        // So that what is kept is there after a crash of the machine, and not only its length.
        file.sync_all().map_err(failed())?;
        match broken {
            None => Ok(()),
            Some(why) => Err(Broken::Again { received: at - plan.start, why }),
        }
    }

    fn have(&self) -> Result<u64, ImageError> {
        self.file.metadata().map(|found| found.len()).map_err(ImageError::io("look at", self.file))
    }

    fn empty(&self) -> Result<(), ImageError> {
        let file = File::options().write(true).open(self.file);
        file.and_then(|file| file.set_len(0)).map_err(ImageError::io("empty", self.file))
    }

    fn too_large(&self) -> ImageError {
        self.server(format!("the file is larger than the {} MiB that are allowed", self.most >> 20))
    }

    fn server(&self, said: String) -> ImageError {
        ImageError::Server { url: super::printable(self.url), said }
    }
}

/// `bytes 5-9/10` to where it starts and how long the whole is.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start, total))
}

fn far(at: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => {
            format!("{} of {} MiB ({} %)", at >> 20, total >> 20, at.saturating_mul(100) / total)
        }
        _ => format!("{} MiB", at >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "bytes -1/10", "lines 1-2/3", "bytes 1-2"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
