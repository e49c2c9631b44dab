//! How long the answer takes for a VM of somebody else's, and for one that never was.

use std::time::Instant;

use super::*;

/// What was measured for one question.
pub(crate) struct Times {
    /// The question.
    pub(crate) what: String,
    /// Seconds, sorted: of VMs that somebody else has, and of those that nobody has.
    foreign: Vec<f64>,
    never: Vec<f64>,
}

impl Times {
    pub(crate) fn medians_us(&self) -> (f64, f64) {
        let median = |sorted: &[f64]| sorted[sorted.len() / 2] * 1e6;
        (median(&self.foreign), median(&self.never))
    }

    /// How often a foreign VM takes longer than one that never was, in a pair of answers: 0.5 is
    /// what guessing gives (Mann and Whitney's U, normalised).
    pub(crate) fn longer(&self) -> f64 {
        let below: usize =
            self.foreign.iter().map(|time| self.never.partition_point(|other| other < time)).sum();
        below as f64 / (self.foreign.len() * self.never.len()) as f64
    }
}

/// Asks each question `rounds` times for either, taking turns, over one kept connection, and tells what
/// came of it.
pub(crate) async fn measure(rounds: usize, mut tell: impl FnMut(Times)) {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let owner = Requestor::new();
    let vm = owner.create(&provider, "foreign-box").await.unwrap();
    let job = vm.job_id.clone().unwrap();
    for (method, pattern) in [
        ("GET", route::VM),
        ("GET", route::VM_ACCESS),
        ("POST", route::VM_STOP),
        ("DELETE", route::VM),
        ("GET", route::VM_OPERATION),
    ] {
        for by in ["name", "id"] {
            let mut stranger = None;
            let (mut foreign, mut never) = (Vec::new(), Vec::new());
            for round in 0..2 * rounds {
                if round % 50 == 0 {
                    // Somebody else, before this one has asked too often; with a connection, and in a
                    // second in which nothing is stale.
                    let next = Requestor::new();
                    next.get(&provider, route::VMS).await.unwrap();
                    stranger = Some(next);
                }
                let is_foreign = round % 2 == (round / 2) % 2;
                // Nobody's is another one each time, as somebody who guesses would ask.
                let nobodys = VmId::random().unwrap().to_string();
                let subject = match (by, is_foreign) {
                    ("name", true) => "foreign-box".to_owned(),
                    ("name", false) => format!("f{}-box", &nobodys[3..9].to_lowercase()),
                    (_, true) => vm.id.clone(),
                    (_, false) => nobodys.clone(),
                };
                let its_job =
                    if is_foreign { job.clone() } else { format!("op_{}", &nobodys[3..]) };
                let path = pattern.replace("{name}", &subject).replace("{job_id}", &its_job);
                let call = Call::new(::http::Method::from_bytes(method.as_bytes()).unwrap(), &path);
                let target = Target::key(&provider.url, provider.id).unwrap();
                let began = Instant::now();
                let reply = stranger.as_ref().unwrap().0.call(&target, &call).await.unwrap();
                let took = began.elapsed().as_secs_f64();
                assert_eq!(reply.reply.status, 404, "{path}");
                if is_foreign { &mut foreign } else { &mut never }.push(took);
            }
            foreign.sort_by(f64::total_cmp);
            never.sort_by(f64::total_cmp);
            let what = if pattern == route::VM_OPERATION {
                format!("{method} {pattern}")
            } else {
                format!("{method} {pattern} by {by}")
            };
            tell(Times { what, foreign, never });
            if pattern == route::VM_OPERATION {
                break;
            }
        }
    }
    provider.end().await;
}

#[tokio::test]
async fn it_can_be_measured() {
    measure(5, |times| {
        let (foreign, never) = times.medians_us();
        let share = times.longer();
        assert!(foreign > 0.0 && never > 0.0 && (0.0..=1.0).contains(&share), "{}", times.what);
    })
    .await;
}
