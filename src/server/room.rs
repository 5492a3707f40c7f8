//! The connections that a listener has room for: whoever only sits there makes way for whoever comes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A room with a number of seats.
#[derive(Debug)]
pub(super) struct Room {
    seats: Arc<Semaphore>,
    idle: Mutex<Idle>,
    rested: Notify,
}

/// Those that could be closed without harm, by when they became idle.
#[derive(Debug, Default)]
struct Idle {
    next: u64,
    seats: BTreeMap<u64, CancellationToken>,
}

/// One connection's seat, idle at first; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    room: Arc<Room>,
    /// Its place among the idle ones.
    idle: Option<u64>,
    token: CancellationToken,
    claimed: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// With so many seats.
    pub(super) fn with(seats: usize) -> Arc<Self> {
        Arc::new(Self { seats: Arc::new(Semaphore::new(seats)), idle: Mutex::default(), rested: Notify::new() })
    }

    /// Waits for a seat. Where all are taken, that which has been idle longest is claimed; where all are busy, the first that is free or idle.
    pub(super) async fn seat(self: &Arc<Self>) -> Seat {
        let mut claimed = false;
        let permit = loop {
            // Listens before it looks, so that none becomes idle unseen in between.
            let rested = self.rested.notified();
            tokio::pin!(rested);
            rested.as_mut().enable();
            let seats = Arc::clone(&self.seats);
            if let Ok(permit) = Arc::clone(&seats).try_acquire_owned() {
                break Some(permit);
            }
            claimed = claimed || self.claim();
            tokio::select! {
                // It is never closed.
                permit = seats.acquire_owned() => break permit.ok(),
                () = rested, if !claimed => {}
            }
        };
        let token = CancellationToken::new();
        let claimed = Box::pin(token.clone().cancelled_owned());
        let mut seat = Seat { room: Arc::clone(self), idle: None, token, claimed, _permit: permit };
        seat.rest();
        seat
    }

    /// Has the one leave that has been idle longest; whether there is one.
    fn claim(&self) -> bool {
        let longest = self.idle().seats.pop_first();
        longest.map(|(_, token)| token.cancel()).is_some()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Its connection is idle from now on.
    pub(super) fn rest(&mut self) {
        if self.idle.is_some() {
            return;
        }
        let mut idle = self.room.idle();
        let turn = idle.next;
        idle.next += 1;
        idle.seats.insert(turn, self.token.clone());
        drop(idle);
        self.idle = Some(turn);
        self.room.rested.notify_waiters();
    }

    /// Its connection is busy from now on.
    pub(super) fn work(&mut self) {
        if let Some(turn) = self.idle.take() {
            self.room.idle().seats.remove(&turn);
        }
    }

    /// Waits until the seat is needed for another connection.
    pub(super) async fn claimed(&mut self) {
        (&mut self.claimed).await;
    }

    /// The same, for who polls.
    pub(super) fn poll_claimed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.claimed.as_mut().poll(cx)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.work();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_seat_that_has_been_idle_longest_is_claimed_and_no_busy_one() {
        let room = Room::with(3);
        let (mut a, mut b, mut c) = (room.seat().await, room.seat().await, room.seat().await);
        a.work();
        c.work();
        c.rest();
        let came = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.seat().await }
        });
        b.claimed().await;
        assert!(!c.token.is_cancelled() && !a.token.is_cancelled());
        drop(b);
        let mut came = came.await.unwrap();
        came.work();
        c.work();

        // All are busy: the first that rests is the one.
        let waits = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.seat().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        c.rest();
        c.claimed().await;
        assert!(!a.token.is_cancelled() && !came.token.is_cancelled());
        drop(c);
        drop(waits.await.unwrap());
    }
}
