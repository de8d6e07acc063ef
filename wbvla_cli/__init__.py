"""One command, ``wbvla``, with verbs. ``main`` maps a verb to the module that carries it out; modules are imported only when called."""
