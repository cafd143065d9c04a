"""The least that moves models with Flower."""
