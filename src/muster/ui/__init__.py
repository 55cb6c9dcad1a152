"""What is shown: values in, text out."""
