//! What a panic said and where, kept per thread until the guard that caught it asks.

use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// A panic that a guard caught.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panicked {
    /// What it said, on one line.
    pub message: String,
    /// `file:line:column`; absent when another panic hook replaced the one of this module.
    pub location: Option<String>,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.message)?;
        match &self.location {
            Some(location) => write!(f, " at {location}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Panicked {}

/// What travels through an unwinding stack.
pub(super) type Payload = Box<dyn Any + Send>;

thread_local! {
    /// How many guards stand on this thread's stack.
    static GUARDS: Cell<usize> = const { Cell::new(0) };
    static LAST: RefCell<Option<Panicked>> = const { RefCell::new(None) };
}

/// Runs `f` and catches its panic, which is then neither printed nor lost.
///
/// Whatever `f` was changing is torn afterwards: the caller must discard it.
pub(super) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, (Panicked, Payload)> {
    install_hook();
    GUARDS.set(GUARDS.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    GUARDS.set(GUARDS.get() - 1);
    result.map_err(|payload| {
        let seen = LAST.take().unwrap_or_else(|| Panicked {
            message: text(payload.as_ref()),
            location: None,
        });
        (seen, payload)
    })
}

/// Runs `f`; its panic, and that of dropping what it said, end here.
pub(super) fn contain(f: impl FnOnce()) {
    if let Err((_, payload)) = catch(f) {
        discard(payload);
    }
}

/// Drops a payload, whose own destructor may panic.
pub(super) fn discard(payload: Payload) {
    if let Err((_, second)) = catch(move || drop(payload)) {
        // A destructor that panics once may do so again: leaking it ends the chain.
        std::mem::forget(second);
    }
}

/// Keeps message and location of panics below a guard; all others go to the hook that
/// was there before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // `try_with`: a thread that is being torn down has no guards.
            let guarded = GUARDS.try_with(|guards| guards.get() > 0).unwrap_or(false);
            if !guarded || !record(info) {
                previous(info);
            }
        }));
    });
}

fn record(info: &PanicHookInfo<'_>) -> bool {
    let seen = Panicked {
        message: text(info.payload()),
        location: info.location().map(ToString::to_string),
    };
    LAST.try_with(|last| last.replace(Some(seen))).is_ok()
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    match text {
        // One record stays one line, whatever the message holds.
        Some(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        None => "a value that is no text".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_keeps_its_message_on_one_line_and_its_place() {
        let line = line!() + 1;
        let (seen, _) = catch(|| panic!("two\nlines {}", 2)).unwrap_err();
        assert_eq!(seen.message, "two lines 2");
        let place = seen.location.as_deref().unwrap();
        assert!(place.contains(&format!("panics.rs:{line}:")), "{place}");
        assert!(seen.to_string().starts_with("panicked: two lines 2 at "));
    }

    #[test]
    fn an_inner_panic_is_not_mistaken_for_the_outer_one() {
        let (seen, _) = catch(|| {
            contain(|| panic!("inner"));
            panic!("outer")
        })
        .unwrap_err();
        assert_eq!(seen.message, "outer");
        let (again, _) = catch(|| panic::resume_unwind(Box::new("resumed"))).unwrap_err();
        assert_eq!((again.message.as_str(), again.location), ("resumed", None));
    }

    #[test]
    fn a_payload_whose_destructor_panics_is_contained() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic::panic_any(Bomb);
            }
        }
        contain(|| panic::panic_any(Bomb));
    }
}
