//! Is a new release bad? Rules, evaluated through a soak time.
