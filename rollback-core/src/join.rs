//! Several futures at once, in one task: nothing is spawned, so dropping the whole drops them all.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// All answers, in the order of the futures. For a handful: each wake asks all that are not ready.
pub(crate) async fn join_all<T, F: Future<Output = T>>(futures: impl IntoIterator<Item = F>) -> Vec<T> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut ready: Vec<Option<T>> = running.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, slot) in running.iter_mut().zip(&mut ready) {
            if slot.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(answer) => *slot = Some(answer),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    ready.into_iter().flatten().collect()
}
