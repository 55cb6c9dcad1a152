"""What failures, machines and self-tests tell, and what to do. Pure."""
