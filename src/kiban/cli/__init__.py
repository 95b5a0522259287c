"""Floor 5: the commands. A command parses, calls a room, and shows. What needs several rooms is composed here."""
