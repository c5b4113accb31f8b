//! Reservations: a layer that several processes want at once is unpacked once.

use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Store;
use super::layer::LeasedLayer;
use super::layout::{LayerKey, RESERVED_SUFFIX, STAGING};
use crate::error::{Context, Result};
use crate::sys::lock::{Lock, Mode};
use crate::watch::Watch;

/// How long a waiter sleeps between two looks, at most.
const PAUSE: Duration = Duration::from_millis(50);

/// What came of asking for a layer that may have to be unpacked.
#[derive(Debug)]
pub enum Reserved {
    /// It is in the store.
    Ready(LeasedLayer),
    /// It is not, and the caller is the one to unpack it: nobody else will until the reservation
    /// is dropped.
    Yours(Reservation),
    /// Somebody else unpacks it at this moment.
    Busy,
}

/// The right to unpack a layer; dropped once the layer is committed, or will not be.
#[derive(Debug)]
pub struct Reservation {
    store: Store,
    name: String,
    _lock: Lock,
}

impl Store {
    /// Asks for a layer without waiting.
    ///
    /// Whoever holds reservations and finds a layer busy should commit what it reserved, and drop
    /// the reservations, before it [waits](Self::reserve): two that wait for each other's layers
    /// would wait for ever.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn try_reserve(&self, key: &LayerKey) -> Result<Reserved> {
        if let Some(layer) = self.find_layer(key)? {
            return Ok(Reserved::Ready(layer));
        }
        self.writable()?;
        let name = format!("{key}{RESERVED_SUFFIX}");
        let staging = self.top(STAGING);
        let lock = loop {
            let attempt = || {
                let file = staging.open(name.as_bytes(), OFlags::RDWR | OFlags::CREATE, 0o600)?;
                let lock = Lock::attempt(file.into(), Mode::Exclusive)?;
                // The file goes with the reservation: this may be one that is gone.
                let current = match &lock {
                    Some(lock) => staging.names(name.as_bytes(), lock)?,
                    None => true,
                };
                Ok::<_, Errno>(current.then_some(lock))
            };
            if let Some(lock) = attempt().during("lock", &self.at(&[STAGING, &name]))? {
                break lock;
            }
        };
        let Some(lock) = lock else {
            return Ok(Reserved::Busy);
        };
        let reservation = Reservation { store: self.clone(), name, _lock: lock };
        // It may have been committed between the first look and the lock.
        Ok(match self.find_layer(key)? {
            Some(layer) => Reserved::Ready(layer),
            None => Reserved::Yours(reservation),
        })
    }

    /// Asks for a layer, and waits while somebody else unpacks it: never gives
    /// [`Reserved::Busy`]. To be called while holding no other reservation.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) where `watch` says so.
    pub fn reserve(&self, key: &LayerKey, watch: &Watch<'_>) -> Result<Reserved> {
        let mut pause = Duration::from_millis(1);
        loop {
            watch.check()?;
            match self.try_reserve(key)? {
                Reserved::Busy => std::thread::sleep(pause),
                other => return Ok(other),
            }
            pause = (pause * 2).min(PAUSE);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = self.store.top(STAGING).remove_file(self.name.as_bytes());
    }
}
