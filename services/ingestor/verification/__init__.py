"""Whether a log is what it signed: nothing is published that its signed tree does not prove.

    tree head -> signature -> heads: newer, older, split?  -> the head to catch up with
    entries   -> leaf hashes -> frontier -> its root, or an inclusion proof's -> may be published

`heads.py` judges tree heads, `growth.py` and `survey.py` entries, `refusals.py` a log that gives no
proof, all pure; `contradiction.py` finds out whether two tree heads contradict each other;
`guard.py` asks the log for the proofs they need, and says what becomes of a log that gives none, or
lies, which `alarms.py` tells. docs/integrity.md says what all this proves.
"""
