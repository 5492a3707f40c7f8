//! Entries of the journal.

use crate::renewal::observed::Observed;
use crate::renewal::step::Next;
use crate::renewal::{Condition, Phase, Renewal, Status, StepRecord, name_for};
use crate::rollout::Workload;
use crate::time::{DAY, UnixTime};

/// Entries that are kept.
const MOST_RECORDS: usize = 60;
/// The first retry comes after this, each further one after twice as long.
const FIRST_RETRY: i64 = 3600;
/// Tries beside the first.
const MOST_RETRIES: u32 = 6;
/// Characters of a message, and of each entry's result: a status has to fit into an object.
const LONGEST_MESSAGE: usize = 4096;
const LONGEST_RESULT: usize = 1024;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// With backoff.
    Later,
    /// At this moment.
    At(UnixTime),
    /// Not at all.
    Never,
}

/// Enters a phase.
pub(super) fn enter(seen: &Observed, phase: Phase, message: &str, now: UnixTime) -> Status {
    let mut status = seen.renewal.status.clone();
    if let Some(open) = status.steps.last_mut().filter(|record| record.finished_at.is_none()) {
        open.finished_at = Some(now);
        open.result = cut(message, LONGEST_RESULT);
    }
    status.attempt = status.attempt.max(1);
    if !phase.is_terminal() {
        let attempt = status.attempt;
        status.steps.push(StepRecord {
            name: phase,
            attempt,
            started_at: now,
            finished_at: None,
            result: String::new(),
        });
    }
    let surplus = status.steps.len().saturating_sub(MOST_RECORDS);
    status.steps.drain(..surplus);
    status.phase = phase;
    status.phase_since = Some(now);
    status.observed_generation = seen.renewal.generation;
    status.reason = phase.as_str().to_owned();
    status.message = cut(message, LONGEST_MESSAGE);
    status.next_attempt_at = None;
    status.cleaned_up = false;
    status
}

fn cut(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
}

/// Counts another attempt, which the phase just entered belongs to.
pub(super) fn next_attempt(status: &mut Status) {
    status.attempt += 1;
    if let Some(record) = status.steps.last_mut() {
        record.attempt = status.attempt;
    }
}

/// The journal with a new phase.
pub(super) fn go(seen: &Observed, phase: Phase, message: &str, now: UnixTime) -> Next {
    enter(seen, phase, message, now).into()
}

/// Stays in the phase and says why; written once.
pub(super) fn note(renewal: &Renewal, reason: &str, message: &str) -> Next {
    let mut status = renewal.status.clone();
    let message = cut(message, LONGEST_MESSAGE);
    let is_seen = status.observed_generation == renewal.generation;
    if status.reason == reason && status.message == message && is_seen {
        return Next::Wait;
    }
    (status.reason, status.message) = (reason.to_owned(), message);
    status.observed_generation = renewal.generation;
    Next::Note(Box::new(status))
}

/// Between the message of an end and what cannot be cleaned up after it.
const LEFT_OVER: &str = "; not cleaned up yet: ";

/// Stays ended, and says what keeps something from being given back.
pub(super) fn left_over(renewal: &Renewal, what: &str) -> Next {
    let Status { reason, message, .. } = &renewal.status;
    note(renewal, reason, &format!("{}{LEFT_OVER}{what}", without_left_over(message)))
}

/// The message of an end alone.
pub(super) fn without_left_over(message: &str) -> &str {
    message.split(LEFT_OVER).next().unwrap_or(message)
}

/// Ends.
pub(super) fn end(seen: &Observed, phase: Phase, reason: &str, message: &str, now: UnixTime) -> Next {
    end_status(seen, phase, reason, message, now).into()
}

/// Ends badly, to be tried again or not.
pub(super) fn fail(seen: &Observed, reason: &str, message: &str, retry: Retry, now: UnixTime) -> Next {
    fail_status(seen, reason, message, retry, now).into()
}

/// Ends without anything having been touched.
pub(super) fn refuse(seen: &Observed, reason: &str, message: &str, retry: Retry, now: UnixTime) -> Next {
    let mut status = ended_status(seen, Phase::Refused, reason, message, retry, now);
    // Whoever asks for these certificates finds this refusal, whatever name a person gave it.
    status.request_name = name_for(&seen.mesh);
    status.into()
}

/// Ends, to be tried again or not.
pub(super) fn ended(seen: &Observed, phase: Phase, reason: &str, message: &str, retry: Retry, now: UnixTime) -> Next {
    ended_status(seen, phase, reason, message, retry, now).into()
}

/// The entry of an end.
fn end_status(seen: &Observed, phase: Phase, reason: &str, message: &str, now: UnixTime) -> Status {
    // Whatever ends it, nobody steps the members on.
    let stepped: String = seen.tiers.iter().flatten().flatten().map(Workload::stays_stepped).collect();
    let mut status = enter(seen, phase, &format!("{message}{stepped}"), now);
    reason.clone_into(&mut status.reason);
    let proven = if phase == Phase::Succeeded { "True" } else { "False" };
    set_condition(&mut status, "Ready", proven, now);
    status.ends_at = seen.mesh.expiration;
    status
}

/// The entry of a bad end.
pub(super) fn fail_status(seen: &Observed, reason: &str, message: &str, retry: Retry, now: UnixTime) -> Status {
    ended_status(seen, Phase::Failed, reason, message, retry, now)
}

/// The entry of an end, with the moment of the next try.
fn ended_status(seen: &Observed, phase: Phase, reason: &str, message: &str, retry: Retry, now: UnixTime) -> Status {
    let mut status = end_status(seen, phase, reason, message, now);
    // What cannot be done yet costs nothing to look at: only what was tried is given up.
    let tries = if phase == Phase::Refused { (status.attempt - 1).min(MOST_RETRIES - 1) } else { status.failures };
    status.failures += u32::from(phase != Phase::Refused);
    status.next_attempt_at = match retry {
        Retry::Later => {
            let left = seen.about.expiration.map_or(DAY, |end| now.seconds_until(end));
            pause(tries, left).map(|pause| now.plus(pause))
        }
        Retry::At(moment) => Some(moment),
        Retry::Never => None,
    };
    status
}

/// Seconds until the next try after so many beside the first, with so many seconds left until the end; `None` where it was tried often enough.
fn pause(tries: u32, left: i64) -> Option<i64> {
    let quarter = if left > 0 { (left / 4).max(60) } else { FIRST_RETRY };
    (tries < MOST_RETRIES).then(|| (FIRST_RETRY << tries).min(quarter))
}

/// Sets a condition in the manner of the API conventions.
pub(super) fn set_condition(status: &mut Status, kind: &str, value: &str, now: UnixTime) {
    let (reason, message) = (status.reason.clone(), status.message.clone());
    match status.conditions.iter_mut().find(|condition| condition.kind == kind) {
        Some(condition) => {
            if condition.status != value {
                value.clone_into(&mut condition.status);
                condition.last_transition_time = now;
            }
            (condition.reason, condition.message) = (reason, message);
        }
        None => status.conditions.push(Condition {
            kind: kind.to_owned(),
            status: value.to_owned(),
            reason,
            message,
            last_transition_time: now,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_after_1_to_32_hours_and_within_a_quarter_of_the_time_left() {
        let hours = |left| (0..8).map(|tries| pause(tries, left).map(|pause| pause / 3600)).collect::<Vec<_>>();
        let calm = [1, 2, 4, 8, 16, 32].map(Some);
        assert_eq!(hours(30 * DAY), [&calm[..], &[None, None]].concat());
        assert_eq!(hours(DAY)[..6], [1, 2, 4, 6, 6, 6].map(Some));
        assert_eq!((pause(3, 100), pause(3, -1)), (Some(60), Some(FIRST_RETRY)), "at the end, and after it");
    }
}
