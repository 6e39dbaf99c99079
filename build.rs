//! Binds the function that makes rings to `src/ring.rs`, in the server's binary alone: no test and no tool needs it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=ringkeeper=-Wl,--wrap=io_uring_queue_init_params");
}
