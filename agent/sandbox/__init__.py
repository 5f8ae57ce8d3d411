"""Stand-ins for the two outer services, each behind its real protocol: the campaigns API and a model."""
