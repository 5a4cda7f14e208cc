//! What the bus hears on the live stream.

use crate::protocol::api::Event;
use futures_util::Stream;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// Events that are taken at once.
const AT_ONCE: usize = 256;

/// What the live stream gives.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    Events(Vec<Arc<Event>>),
    /// So many were lost after those that came before this.
    Lagged(u64),
    /// Everything that was sent before it was asked for this has come.
    All,
}

/// The live stream in batches; `asked` asks for [`Heard::All`].
pub(super) fn batches(live: Receiver<Arc<Event>>, asked: Arc<Notify>) -> impl Stream<Item = Heard> {
    let state = (live, asked, None);
    futures_util::stream::unfold(state, |(mut live, asked, mut lost)| async move {
        let heard = match lost.take() {
            Some(lost) => Heard::Lagged(lost),
            None => batch(&mut live, &asked, &mut lost).await?,
        };
        Some((heard, (live, asked, lost)))
    })
}

/// What comes next; `lost` is how many were lost after it.
async fn batch(
    live: &mut Receiver<Arc<Event>>,
    asked: &Notify,
    lost: &mut Option<u64>,
) -> Option<Heard> {
    let first = tokio::select! {
        // Asked or not, what is there comes first.
        biased;
        first = live.recv() => first,
        () = asked.notified() => return Some(Heard::All),
    };
    let mut events = match first {
        Ok(event) => vec![event],
        Err(RecvError::Lagged(lost)) => return Some(Heard::Lagged(lost)),
        Err(RecvError::Closed) => return None,
    };
    while events.len() < AT_ONCE {
        match live.try_recv() {
            Ok(event) => events.push(event),
            Err(TryRecvError::Lagged(n)) => {
                *lost = Some(n);
                break;
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    Some(Heard::Events(events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::store::Live;
    use futures_util::{FutureExt, StreamExt};
    use serde_json::json;

    fn send(live: &Live, ids: std::ops::RangeInclusive<u64>) {
        for id in ids {
            let event = Event::new(id, None, None, 0, "epoch", json!({}));
            live.send(Arc::new(event)).unwrap();
        }
    }

    /// The numbers of a batch of events.
    fn ids(heard: Heard) -> Vec<u64> {
        match heard {
            Heard::Events(events) => events.iter().map(|event| event.id).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn all_has_come_only_when_the_stream_is_empty() {
        let (live, asked) = (Live::new(1024), Arc::new(Notify::new()));
        let mut heard = Box::pin(batches(live.subscribe(), asked.clone()));
        let count = AT_ONCE as u64;
        send(&live, 1..=count + 2);
        asked.notify_one();
        assert_eq!(ids(heard.next().await.unwrap()).len(), AT_ONCE);
        assert_eq!(ids(heard.next().await.unwrap()), [count + 1, count + 2]);
        assert_eq!(heard.next().await, Some(Heard::All));
        assert_eq!(heard.next().now_or_never(), None, "it was asked once");
        asked.notify_one();
        assert_eq!(heard.next().await, Some(Heard::All));
    }

    #[tokio::test]
    async fn what_is_lost_is_counted_and_what_came_before_is_not_lost_with_it() {
        let live = Live::new(4);
        let mut heard = Box::pin(batches(live.subscribe(), Arc::default()));
        send(&live, 1..=10);
        assert_eq!(heard.next().await, Some(Heard::Lagged(6)));
        assert_eq!(ids(heard.next().await.unwrap()), [7, 8, 9, 10]);
    }
}
