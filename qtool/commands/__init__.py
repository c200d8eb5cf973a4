"""One file a verb: what the command line and `import qtool` call."""
