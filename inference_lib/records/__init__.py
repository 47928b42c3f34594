"""What was measured, as plain data: records, their folder, the machine, and what two records allow to say."""
