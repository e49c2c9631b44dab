//! How a port shows whose it is.
//!
//! A checker connects to a port and sends one line, the [`Challenge`]; whoever holds the
//! provider's key answers with one line, the [`Proof`]: a signature over the challenge's nonce, the
//! checker's id, and the address and port that were dialled. Whatever else listens there can't.
//!
//! ```text
//! checker:  GOLEM-PORT-PROOF/1 <nonce> <checker id> <address> <port>\n
//! provider: GOLEM-PORT-PROOF/1 <provider id> <signature>\n
//! ```
//!
//! Behind a router a listener does not know under which address it was dialled, so the checker says
//! it, and the provider signs what the checker said, after looking whether the port is its own. A line
//! without address and port is answered for the address and port on which it arrived.
//!
//! On a port that leads to a VM the VM's SSH server speaks first, so that its banner may stand
//! before the proof; see [`ProofScan`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;

use crate::identity::{KeyId, KeyPair};
use crate::signature::Nonce;

/// How both lines begin; the number is the version.
pub const TAG: &str = "GOLEM-PORT-PROOF/1";
/// How many bytes tell a challenge from the beginning of SSH (`SSH-`) or HTTP.
pub const OPENING_BYTES: usize = 4;
/// Longest line in bytes, its line feed included.
pub const MAX_LINE: usize = 256;
/// How many bytes a checker reads for a proof at most: an SSH server's banner may stand before it.
pub const MAX_REPLY: usize = 2048;
/// Separates these signatures from all others that the key makes.
const DOMAIN: &str = "golem-port-proof-v1\0";

/// What a client that has just connected wants, judged by its first four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Too few bytes to tell.
    Undecided,
    /// An SSH client (RFC 4253, 4.2).
    Ssh,
    /// A port checker's challenge.
    Challenge,
    /// Anything else.
    Other,
}

impl Opening {
    /// Judges the first bytes of a connection; bytes behind the fourth are not looked at.
    ///
    /// ```
    /// use golem_vm_protocol::port_proof::Opening;
    ///
    /// assert_eq!(Opening::of(b"SSH-2.0-OpenSSH_9.2\r\n"), Opening::Ssh);
    /// assert_eq!(Opening::of(b"GO"), Opening::Undecided);
    /// assert_eq!(Opening::of(b"GET / HTTP/1.1"), Opening::Other);
    /// ```
    #[must_use]
    pub fn of(received: &[u8]) -> Self {
        let first = received.get(..OPENING_BYTES).unwrap_or(received);
        let known = [(b"SSH-".as_slice(), Self::Ssh), (b"GOLE".as_slice(), Self::Challenge)];
        match known.into_iter().find(|(opening, _)| opening.starts_with(first)) {
            Some((opening, meaning)) if opening.len() == first.len() => meaning,
            Some(_) => Self::Undecided,
            None => Self::Other,
        }
    }
}

/// Why a line is not taken for a challenge or a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No line feed within [`MAX_LINE`] bytes.
    #[error("the line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// It does not begin with [`TAG`].
    #[error("the line does not begin with '{TAG}'")]
    Tag,
    /// It has too few or too many words, or other blanks than single spaces.
    #[error("the line has not the words it should have")]
    Words,
    /// The nonce is not 16 bytes in base64url.
    #[error("the nonce is not 16 bytes in base64url")]
    Nonce,
    /// The id is none.
    #[error("the id is not a key")]
    Id,
    /// Address or port is not written in its one form.
    #[error("the address or the port is not one")]
    Address,
    /// The signature is not 64 bytes in base64url.
    #[error("the signature is not 64 bytes in base64url")]
    Signature,
}

/// The first line of what was received, without its line feed; `None` while it is not complete.
///
/// # Errors
/// [`LineError::TooLong`] when [`MAX_LINE`] bytes hold none.
pub fn first_line(received: &[u8]) -> Result<Option<&[u8]>, LineError> {
    let within = received.get(..MAX_LINE).unwrap_or(received);
    match within.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(within.get(..end)),
        None if received.len() >= MAX_LINE => Err(LineError::TooLong),
        None => Ok(None),
    }
}

/// What a checker asks of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Made for this one connection.
    pub nonce: Nonce,
    /// Who asks.
    pub checker: KeyId,
    /// What the checker dialled. Without it, the proof is for where the line arrived.
    pub dialled: Option<SocketAddr>,
}

impl Challenge {
    /// A challenge of `checker` for the port that it dials at `dialled`.
    #[must_use]
    pub fn new(nonce: Nonce, checker: KeyId, dialled: SocketAddr) -> Self {
        Self { nonce, checker, dialled: Some(plain(dialled)) }
    }

    /// Reads a line, given without its line feed.
    ///
    /// ```
    /// use golem_vm_protocol::port_proof::Challenge;
    ///
    /// let line = "GOLEM-PORT-PROOF/1 BAQEBAQEBAQEBAQEBAQEBA \
    ///             orhzqdiexwmi6iidktucgud63ufa5nwtsuzdxe176a8izd6jsqky 192.0.2.1 50800";
    /// let challenge: Challenge = line.parse().unwrap();
    /// assert_eq!(challenge.dialled, Some("192.0.2.1:50800".parse().unwrap()));
    /// assert_eq!(challenge.to_string(), line);
    /// ```
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        let words = words(line)?;
        let (nonce, checker, dialled) = match words.as_slice() {
            [nonce, checker] => (nonce, checker, None),
            [nonce, checker, address, port] => (nonce, checker, Some(endpoint(address, port)?)),
            _ => return Err(LineError::Words),
        };
        Ok(Self {
            nonce: Nonce::from_bytes(decoded(nonce).ok_or(LineError::Nonce)?),
            checker: checker.parse().map_err(|_| LineError::Id)?,
            dialled,
        })
    }

    /// The provider's answer to a challenge that arrived at `here`, which counts where the challenge
    /// does not say what was dialled. Whether `dialled` names a port of the provider is for the caller
    /// to judge before.
    #[must_use]
    pub fn answer(&self, key: &KeyPair, here: SocketAddr) -> Proof {
        let signature = key.sign(&self.signed(self.dialled.unwrap_or_else(|| plain(here))));
        Proof { provider: key.id(), signature }
    }

    fn signed(&self, reached: SocketAddr) -> Vec<u8> {
        let text =
            format!("{DOMAIN}{} {} {} {}", self.nonce, self.checker, reached.ip(), reached.port());
        text.into_bytes()
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TAG} {} {}", self.nonce, self.checker)?;
        match self.dialled {
            Some(dialled) => write!(f, " {} {}", dialled.ip(), dialled.port()),
            None => Ok(()),
        }
    }
}

impl FromStr for Challenge {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        Self::parse(line.as_bytes())
    }
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is another provider's.
    #[error("the port belongs to another provider, {0}")]
    OtherProvider(KeyId),
    /// The signature is not over this nonce, checker, address and port, or not by this key.
    #[error("the proof is not for this check: its signature does not match")]
    Signature,
}

/// A provider's answer to a [`Challenge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Whose port it is.
    pub provider: KeyId,
    /// Over nonce, checker, address and port.
    pub signature: [u8; 64],
}

impl Proof {
    /// Reads a line, given without its line feed. A proof that can be read is not yet a good one.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        match words(line)?.as_slice() {
            [provider, signature] => Ok(Self {
                provider: provider.parse().map_err(|_| LineError::Id)?,
                signature: decoded(signature).ok_or(LineError::Signature)?,
            }),
            _ => Err(LineError::Words),
        }
    }

    /// Whether this is `provider`'s answer to `challenge`, dialled at `dialled`.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn verify(
        &self,
        challenge: &Challenge,
        dialled: SocketAddr,
        provider: KeyId,
    ) -> Result<(), ProofError> {
        if self.provider != provider {
            return Err(ProofError::OtherProvider(self.provider));
        }
        let reached = plain(dialled);
        if challenge.dialled.is_some_and(|said| said != reached)
            || !provider.verifies(&challenge.signed(reached), &self.signature)
        {
            return Err(ProofError::Signature);
        }
        Ok(())
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TAG} {} {}", self.provider, BASE64URL_NOPAD.encode(&self.signature))
    }
}

/// Looks for proofs in what a port sends: lines before one belong to an SSH server. Whoever sends
/// many proofs or very small pieces costs no more than [`MAX_REPLY`] bytes of looking.
///
/// ```
/// use golem_vm_protocol::port_proof::ProofScan;
///
/// let mut scan = ProofScan::default();
/// scan.push(b"SSH-2.0-OpenSSH_9.2\r\nGOLEM-PORT-");
/// assert!(scan.next().is_none() && !scan.is_full());
/// ```
#[derive(Debug, Default)]
pub struct ProofScan {
    received: Vec<u8>,
    /// Where the first line begins that was not looked at.
    line: usize,
}

impl ProofScan {
    /// Takes what has arrived; what is more than [`MAX_REPLY`] in all is not kept.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = MAX_REPLY.saturating_sub(self.received.len());
        self.received.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Whether there is no room for more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.received.len() >= MAX_REPLY
    }
}

impl Iterator for ProofScan {
    type Item = Proof;

    /// The next line that is a proof by its form, good or not; `None` while there is no further one.
    fn next(&mut self) -> Option<Proof> {
        loop {
            let rest = self.received.get(self.line..)?;
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let proof = rest.get(..end).and_then(|line| Proof::parse(line).ok());
            self.line += end + 1;
            if proof.is_some() {
                return proof;
            }
        }
    }
}

/// The words behind the tag.
fn words(line: &[u8]) -> Result<Vec<&str>, LineError> {
    if line.len() >= MAX_LINE {
        return Err(LineError::TooLong);
    }
    let text = std::str::from_utf8(line).map_err(|_| LineError::Words)?;
    let rest = text.strip_prefix(TAG).ok_or(LineError::Tag)?;
    Ok(rest.strip_prefix(' ').ok_or(LineError::Tag)?.split(' ').collect())
}

/// base64url without padding of exactly `N` bytes.
fn decoded<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// An address and a port, each in its one text form.
fn endpoint(address: &str, port: &str) -> Result<SocketAddr, LineError> {
    let ip: IpAddr = address.parse().map_err(|_| LineError::Address)?;
    let number: u16 = port.parse().map_err(|_| LineError::Address)?;
    let endpoint = plain(SocketAddr::new(ip, number));
    let same = endpoint.ip().to_string() == address && number.to_string() == port;
    if same && number != 0 { Ok(endpoint) } else { Err(LineError::Address) }
}

/// An IPv4 address as IPv4, and without the parts of an IPv6 one that mean something on one host
/// only.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[path = "port_proof/tests.rs"]
mod tests;
