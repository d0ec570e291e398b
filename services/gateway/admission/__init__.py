"""Admission: who is asking, and may they.

policy       the settings, as the other modules need them; replaced whole when they change
visitor      where a request comes from
tokens       who a token belongs to
rates        how often one may ask, over all gateways; own_rates while Redis is away
connections  how many may be connected, over all gateways
door         all of it in order: a request -> a visitor, or a refusal
"""
