"""From run folders to one page: which way of training is better, by how much, and how sure that is. No torch."""
