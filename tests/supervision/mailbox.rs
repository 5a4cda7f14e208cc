//! One bound for a mailbox, however many peers write to it.

use crate::probe::*;
use backpropd::supervise::{CallError, Supervisor};

#[test]
fn forty_handles_share_one_bound() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe").mailbox(4));
        let tree = tree.start().await.unwrap();
        let handles: Vec<_> = (0..40).map(|_| probe.clone()).collect();
        let sent: Vec<_> = handles
            .iter()
            .map(|handle| handle.try_send(Later(ms(10))))
            .collect();
        assert_eq!(sent.iter().filter(|sent| sent.is_ok()).count(), 4);
        let full = CallError::Full {
            child: "probe".into(),
            bound: 4,
        };
        assert_eq!(sent[4], Err(full));
        // Taken up, but not answered: work in hand counts.
        tokio::task::yield_now().await;
        let busy = snapshot(&tree, "probe").await;
        assert_eq!((busy.mailbox_depth, busy.mailbox_bound), (4, 4));
        assert!(probe.try_send(Serve).is_err());
        // `send` waits for room instead.
        assert_eq!(probe.send(Serve).await, Ok(5));
        let idle = snapshot(&tree, "probe").await;
        assert_eq!(
            (idle.mailbox_depth, idle.progress, idle.messages_lost),
            (0, 5, 0)
        );
    });
}

#[test]
fn who_waits_for_room_hears_of_the_end_too() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe").mailbox(1));
        let _tree = tree.start().await.unwrap();
        let (boom, waiting) = tokio::join!(probe.send(Boom::Timer), probe.send(Serve));
        assert_eq!(boom.unwrap_err().code(), "actor-panicked");
        assert_eq!(waiting.unwrap_err().code(), "actor-down");
    });
}

#[test]
fn a_request_that_is_dropped_is_taken_back_and_frees_its_place() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe").mailbox(2));
        let tree = tree.start().await.unwrap();
        {
            let mut request = std::pin::pin!(probe.send(Serve));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(request.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(probe.send(Serve).await, Ok(1), "the first was not served");
        assert_eq!(snapshot(&tree, "probe").await.mailbox_depth, 0);
    });
}

#[test]
fn what_nobody_waits_for_is_counted_when_it_is_lost() {
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = tree.add(child("probe"));
        let tree = tree.start().await.unwrap();
        probe.try_send(Boom::Handler).unwrap();
        for _ in 0..9 {
            probe.try_send(Serve).unwrap();
        }
        let after = until(&tree, "probe", |c| c.generation == 2).await;
        assert_eq!(after.messages_lost, 10);
        assert_eq!(after.mailbox_depth, 0);
    });
}

/// Control connections run on threads of their own.
#[test]
fn a_request_may_travel_between_threads() {
    fn travels<T: Send>(value: T) -> T {
        value
    }
    virtually(async {
        let mut tree = Supervisor::new("tree");
        let probe = travels(tree.add(child("probe")));
        let tree = tree.start().await.unwrap();
        assert_eq!(travels(probe.send(Serve)).await, Ok(1));
        assert_eq!(travels(probe.up()).await, Ok(1));
        travels(tree.shut_down()).await.unwrap();
        travels(probe.gone()).await;
    });
}
