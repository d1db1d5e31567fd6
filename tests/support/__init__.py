"""What tests share: runs made without a model, a browser, a process that is killed."""
