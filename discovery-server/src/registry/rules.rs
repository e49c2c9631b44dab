//! What may follow what: pure, so that every store decides alike.

use golem_vm_protocol::time::Timestamp;

use super::feed::{Content, Publication, Refusal, Row, State, Withdrawal};

/// The row after `publication`, or the known sequence if it is not newer.
///
/// - A signed one replaces only what has a lower sequence of the same key, whether that is live,
///   expired or withdrawn.
/// - The very same document again refreshes it, unless it was withdrawn.
/// - An unsigned one replaces what came under that id, unless that is live and came from another
///   address: who was first keeps the id for as long as it refreshes. Ids of signed and unsigned
///   providers never meet.
///
/// `revision` is the next one of the feed.
///
/// # Errors
/// [`Refusal`], but not for want of room.
pub fn publish(
    existing: Option<&Row>,
    publication: Publication,
    revision: u64,
) -> Result<Row, Refusal> {
    let Publication { provider_id, content, observed_address, at, expires_at } = publication;
    let (signed, content) = match content {
        Content::Signed { sequence, digest, envelope } => (Some((sequence, digest)), envelope),
        Content::Unsigned { body } => (None, body),
    };
    let mut refreshed = false;
    if let (Some((sequence, digest)), Some((known, last))) =
        (signed, existing.and_then(|row| row.signed))
    {
        let withdrawn = existing.is_some_and(|row| row.state == State::Withdrawn);
        refreshed = sequence == known && digest == last && !withdrawn;
        if sequence <= known && !refreshed {
            return Err(Refusal::NotNewer { known });
        }
    }
    let listed = existing.filter(|row| row.is_live(at));
    if signed.is_none() && listed.is_some_and(|row| row.observed_address != observed_address) {
        return Err(Refusal::InUse);
    }
    Ok(Row {
        revision,
        provider_id,
        signed,
        state: State::Live,
        content: Some(content),
        observed_address,
        created_at: listed.map_or(at, |row| row.created_at),
        updated_at: listed.filter(|_| refreshed).map_or(at, |row| row.updated_at),
        last_seen: at,
        expires_at,
    })
}

/// The row after its provider withdrew it; `None` when there is nothing to withdraw, or what is
/// there came from another address than an unsigned request.
#[must_use]
pub fn withdraw(existing: Option<&Row>, withdrawal: &Withdrawal, revision: u64) -> Option<Row> {
    let at = withdrawal.at;
    let row = existing.filter(|row| row.is_live(at))?;
    if withdrawal.unsigned_from.as_ref().is_some_and(|from| *from != row.observed_address) {
        return None;
    }
    let gone =
        Row { state: State::Withdrawn, content: None, last_seen: at, revision, ..row.clone() };
    Some(gone)
}

/// The row after its time was over.
#[must_use]
pub fn expire(row: Row, revision: u64) -> Row {
    Row { state: State::Expired, content: None, revision, ..row }
}

impl Row {
    /// Whether it is on the list at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.state == State::Live && self.expires_at > now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::document::DocumentDigest;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    const NOT_NEWER: Result<Row, Refusal> = Err(Refusal::NotNewer { known: 5 });

    fn by_key(seconds: u64) -> Withdrawal {
        Withdrawal { provider_id: "key".into(), unsigned_from: None, at: at(seconds) }
    }

    fn signed(sequence: u64, payload: &[u8], seconds: u64) -> Publication {
        let digest = DocumentDigest::of(payload);
        Publication {
            provider_id: "key".into(),
            content: Content::Signed { sequence, digest, envelope: "{}".into() },
            observed_address: "192.0.2.1".into(),
            at: at(seconds),
            expires_at: at(seconds + 300),
        }
    }

    #[test]
    fn only_a_higher_sequence_replaces() {
        let first = publish(None, signed(5, b"a", 100), 1).unwrap();
        for (sequence, payload) in [(5, b"b"), (4, b"a"), (4, b"b")] {
            assert_eq!(publish(Some(&first), signed(sequence, payload, 110), 2), NOT_NEWER);
        }
        let second = publish(Some(&first), signed(6, b"b", 110), 2).unwrap();
        assert_eq!((second.revision, second.created_at, second.updated_at), (2, at(100), at(110)));
        assert_eq!(second.expires_at, at(410));
    }

    #[test]
    fn the_same_document_refreshes() {
        let first = publish(None, signed(5, b"a", 100), 1).unwrap();
        let again = publish(Some(&first), signed(5, b"a", 200), 2).unwrap();
        assert_eq!(
            (again.created_at, again.updated_at, again.last_seen),
            (at(100), at(100), at(200))
        );
        let expired = expire(again, 3);
        assert_eq!(expired.content, None);
        let back = publish(Some(&expired), signed(5, b"a", 600), 4).unwrap();
        assert_eq!((back.created_at, back.updated_at), (at(600), at(600)));
    }

    #[test]
    fn what_was_withdrawn_does_not_come_back() {
        let first = publish(None, signed(5, b"a", 100), 1).unwrap();
        let gone = withdraw(Some(&first), &by_key(110), 2).unwrap();
        assert_eq!(
            (gone.state, &gone.content, gone.signed),
            (State::Withdrawn, &None, first.signed)
        );
        assert_eq!(publish(Some(&gone), signed(5, b"a", 120), 3), NOT_NEWER);
        assert_eq!(publish(Some(&gone), signed(4, b"b", 120), 3), NOT_NEWER);
        assert!(publish(Some(&gone), signed(6, b"c", 120), 3).is_ok());
        assert_eq!(withdraw(Some(&gone), &by_key(120), 3), None);
        assert_eq!(withdraw(Some(&first), &by_key(400), 3), None);
        assert_eq!(withdraw(None, &by_key(400), 3), None);
    }

    #[test]
    fn an_unsigned_one_replaces_only_its_own() {
        let plain = |from: &str, seconds| Publication {
            content: Content::Unsigned { body: "{}".into() },
            observed_address: from.into(),
            ..signed(0, b"", seconds)
        };
        let first = publish(None, plain("192.0.2.1", 100), 1).unwrap();
        let second = publish(Some(&first), plain("192.0.2.1", 90), 2).unwrap();
        assert_eq!((second.signed, second.created_at), (None, at(100)));
        let other = publish(Some(&second), plain("192.0.2.2", 110), 3);
        assert_eq!(other, Err(Refusal::InUse));
        let withdrawal =
            |from: &str| Withdrawal { unsigned_from: Some(from.into()), ..by_key(110) };
        assert_eq!(withdraw(Some(&second), &withdrawal("192.0.2.2"), 3), None);
        assert!(withdraw(Some(&second), &withdrawal("192.0.2.1"), 3).is_some());
        // Once it has expired, the id is anybody's.
        assert!(publish(Some(&second), plain("192.0.2.2", 500), 3).is_ok());
    }
}
