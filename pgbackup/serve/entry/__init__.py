"""How a client comes in: listening, encryption, start-up, passwords and certificates, users."""
