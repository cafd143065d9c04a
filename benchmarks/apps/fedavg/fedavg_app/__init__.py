"""FedAvg as a user of Flower writes it."""
