//! Names that come from a network and go into files that other programs parse.
