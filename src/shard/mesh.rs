//! How shards talk: queues with a wake-up, and bounded channels between cores.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::channels::shared_channel::{ConnectedReceiver, ConnectedSender};

/// Messages that a channel between two cores holds before its sender waits. A message is a batch.
pub const CHANNEL_MESSAGES_MAX: usize = 1024;

/// Wakes one task of the same core. A wake-up that comes before anybody waits is kept.
#[derive(Default)]
pub struct Notify {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Notify {
    /// Wakes the task that waits, or the next that will.
    pub fn notify(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits for a wake-up and takes it.
    pub async fn notified(&self) {
        poll_fn(|cx| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A queue between two tasks of one core. Its length is bounded by what its users may have outstanding.
pub struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    arrived: Notify,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { items: RefCell::default(), arrived: Notify::default() }
    }
}

impl<T> Queue<T> {
    /// Adds one.
    pub fn push(&self, item: T) {
        self.items.borrow_mut().push_back(item);
        self.arrived.notify();
    }

    /// Adds some.
    pub fn extend(&self, items: impl IntoIterator<Item = T>) {
        self.items.borrow_mut().extend(items);
        self.arrived.notify();
    }

    /// Adds some before all others.
    pub fn put_back(&self, mut items: VecDeque<T>) {
        let mut queue = self.items.borrow_mut();
        items.append(&mut queue);
        *queue = items;
        drop(queue);
        self.arrived.notify();
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        self.items.borrow_mut().pop_front()
    }

    /// Waits until there is one, and takes it.
    pub async fn next(&self) -> T {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            self.arrived.notified().await;
        }
    }
}

/// Moves what is queued into a channel to another core, until that is gone.
pub async fn pump_out<T: Send + 'static>(queue: Rc<Queue<T>>, sender: ConnectedSender<T>) {
    loop {
        let item = queue.next().await;
        if sender.send(item).await.is_err() {
            return;
        }
    }
}

/// Moves what is queued into a channel to another core, all that has gathered as one message, until that is gone.
pub async fn pump_out_batches<T: Send + 'static>(queue: Rc<Queue<T>>, sender: ConnectedSender<Vec<T>>) {
    loop {
        let mut batch = vec![queue.next().await];
        batch.extend(std::iter::from_fn(|| queue.pop()));
        if sender.send(batch).await.is_err() {
            return;
        }
    }
}

/// Hands what comes from another core to `take`, until that is gone.
pub async fn pump_in<T: Send + 'static>(receiver: ConnectedReceiver<T>, mut take: impl FnMut(T)) {
    while let Some(item) = receiver.recv().await {
        take(item);
    }
}
