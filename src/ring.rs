//! How the kernel tells a shard what has completed on its rings.
//!
//! By default the kernel interrupts a thread that is running, on whichever core, to let it note a completion at once. A
//! busy shard looks at its rings when it has worked off its tasks, and no earlier; so the interrupts only cost time: under
//! full load about a tenth of the shard's. `IORING_SETUP_COOP_TASKRUN` (Linux 5.19) leaves completions until the thread is
//! in the kernel anyway, which it is with each send and receive, and before it sleeps.
//!
//! glommio makes the rings and has no setting for it. All of them come from liburing's `io_uring_queue_init_params`, which
//! the linker binds to the function here (`--wrap`, see `build.rs` and `docs/decisions/0004-glommio.md`).

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;
const EINVAL: c_int = 22;

static UNINTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The beginning of the kernel's `struct io_uring_params`.
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

// SAFETY: liburing declares it so (setup.c); the linker binds this name to that function.
unsafe extern "C" {
    #[link_name = "__real_io_uring_queue_init_params"]
    fn queue_init_params(entries: c_uint, ring: *mut c_void, params: *mut Params) -> c_int;
}

/// Rings that are made from here on do not interrupt their threads. Not for shards that spin: they look at memory
/// only, and would see nothing until the next tick of the kernel's clock.
pub fn leave_uninterrupted() {
    UNINTERRUPTED.store(true, Ordering::Relaxed);
}

// SAFETY: no other function of this name can be there; the linker would say so.
#[unsafe(no_mangle)]
// SAFETY: to be called as liburing's function of that name: with a ring to be filled in, and parameters that are all set.
unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut Params,
) -> c_int {
    if UNINTERRUPTED.load(Ordering::Relaxed) {
        #[cfg(test)]
        tests::MADE.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's parameters begin as `Params` does, and nobody else has them during the call.
        let made = unsafe {
            (*params).flags |= IORING_SETUP_COOP_TASKRUN;
            queue_init_params(entries, ring, params)
        };
        if made != -EINVAL {
            return made;
        }
        // A kernel that does not know it.
        // SAFETY: as above.
        unsafe { (*params).flags &= !IORING_SETUP_COOP_TASKRUN };
    }
    // SAFETY: the caller's arguments, as they came.
    unsafe { queue_init_params(entries, ring, params) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    pub static MADE: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn the_rings_of_an_executor_are_made_here() {
        leave_uninterrupted();
        let executor = glommio::LocalExecutorBuilder::default().make().expect("io_uring is there");
        executor.run(async { glommio::timer::sleep(std::time::Duration::from_millis(1)).await });
        assert!(MADE.load(Ordering::Relaxed) >= 3, "glommio makes its rings in another way");
    }
}
