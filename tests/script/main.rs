//! Stories: commands to the state machines, and everything that they do in answer, as text.
//!
//! Each file below `testdata` is one story, told in blocks of commands, a line `----`, and the trace that they cause.
//! `REWRITE=1 cargo test --test script` writes down what happens now; read the difference before keeping it.

mod election;
mod links;
mod story;
