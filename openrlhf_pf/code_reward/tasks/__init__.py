"""What people have: labels of many forms, and the answers that models write."""
