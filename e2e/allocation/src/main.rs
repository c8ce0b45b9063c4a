// SPDX-License-Identifier: Apache-2.0
//! `berth-bench-allocation`: one figure of Berth's allocator, measured in this process and printed as a number.
//!
//! In: a size, what is taken of it, how long to measure. Out: nanoseconds or bytes. Touches: the clock, `/proc`.
//! `e2e/peers/allocation.go` does the same with upstream's bitmap, under the same arguments.

mod ground;
mod measure;

use anyhow::Result;
use clap::{Parser, Subcommand};

use ground::{Ground, Level};

/// Measures one thing and prints a number.
#[derive(Parser, Debug)]
#[command(name = "berth-bench-allocation", version)]
struct Cli {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Subcommand, Debug)]
enum Figure {
    /// Nanoseconds to allocate an item and give it back
    Time {
        /// Of what
        level: Level,
        #[command(flatten)]
        ground: Ground,
        /// How long to measure, in milliseconds
        milliseconds: u64,
    },
    /// Bytes of a bitmap of so many items, summary levels included
    Bitmap {
        /// How many items
        size: u32,
    },
    /// Bytes of anonymous memory that items strewn over a /64 take in this process
    Strewn {
        /// Of what
        level: Level,
        /// How many items
        taken: u64,
    },
}

fn main() -> Result<()> {
    match Cli::parse().figure {
        Figure::Time {
            level,
            ground,
            milliseconds,
        } => println!("{:.2}", measure::time(level, ground, milliseconds)?),
        Figure::Bitmap { size } => println!("{}", berth_allocator::ItemSet::new(size.into()).heap_bytes()),
        Figure::Strewn { level, taken } => println!("{}", measure::strewn(level, taken)?),
    }
    Ok(())
}
