"""The tests.  ``acceptance`` starts real servers and clients; everything else stays in memory."""
