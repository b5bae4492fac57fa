package rules

import (
	_ "github.com/redis/go-redis/v9" // want "for tests only"
	_ "lockstep/internal/replicator" // want "which is not below it"
	_ "lockstep/smr"
)
