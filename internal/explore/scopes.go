package explore

// Small returns scopes that are complete in seconds: for every run of the tests.
func Small() []Scope {
	return []Scope{
		three("3 epochs", func(s *Scope) { s.Epochs = 3 }),
		three("3 epochs, 1 crash", func(s *Scope) { s.Epochs, s.Frames, s.Crashes = 3, 3, 1 }),
		three("3 epochs, 1 reconfiguration, told late", func(s *Scope) { s.Epochs, s.Frames, s.Reconfigurations, s.SlowTold = 3, 3, 1, true }),
		three("3 epochs, 1 wipe", func(s *Scope) { s.Epochs, s.Frames, s.Wipes = 3, 3, 1 }),
		three("3 epochs, hello travels, slaves know commit", func(s *Scope) {
			s.Epochs, s.Frames, s.SlowHello, s.SlaveCommit = 3, 3, true, true
		}),
		three("2 members and a learner, 3 epochs, 1 reconfiguration", func(s *Scope) { s.Members, s.Epochs, s.Frames, s.Reconfigurations = 2, 3, 3, 1 }),
	}
}

// Full returns the scopes of `make explore`: each complete in minutes, or stopped by the limits.
func Full() []Scope {
	return []Scope{
		three("4 epochs", func(s *Scope) {}),
		three("4 epochs, no shortcuts for follow and told", func(s *Scope) { s.SlowFollow, s.SlowTold = true, true }),
		three("4 epochs, 1 crash", func(s *Scope) { s.Crashes = 1 }),
		three("5 epochs, l=5", func(s *Scope) { s.Epochs, s.Frames = 5, 5 }),
		three("4 epochs, 1 reconfiguration", func(s *Scope) { s.Reconfigurations = 1 }),
		three("4 epochs, 1 reconfiguration, told late", func(s *Scope) { s.Reconfigurations, s.SlowTold = 1, true }),
		three("4 epochs, 2 reconfigurations, told late", func(s *Scope) { s.Reconfigurations, s.SlowTold = 2, true }),
		three("4 epochs, 2 reconfigurations of any kind, told late", func(s *Scope) {
			s.Reconfigurations, s.AnyConfig, s.SlowTold = 2, true, true
		}),
		three("5 epochs, 2 reconfigurations, told late, l=4", func(s *Scope) { s.Epochs, s.Reconfigurations, s.SlowTold = 5, 2, true }),
		three("4 epochs, 1 reconfiguration, 1 crash, l=3", func(s *Scope) { s.Frames, s.Reconfigurations, s.Crashes = 3, 1, 1 }),
		three("3 epochs, 1 reconfiguration, 1 crash", func(s *Scope) { s.Epochs, s.Reconfigurations, s.Crashes = 3, 1, 1 }),
		three("3 epochs, 1 wipe, 1 reconfiguration, l=3", func(s *Scope) { s.Epochs, s.Frames, s.Wipes, s.Reconfigurations = 3, 3, 1, 1 }),
		three("4 epochs, 1 wipe, l=3", func(s *Scope) { s.Frames, s.Wipes = 3, 1 }),
		three("4 epochs, 1 wipe, 1 reconfiguration, l=3", func(s *Scope) { s.Frames, s.Wipes, s.Reconfigurations = 3, 1, 1 }),
		three("3 epochs, hello travels, slaves know commit, 1 reconfiguration, l=3", func(s *Scope) {
			s.Epochs, s.Frames, s.Reconfigurations, s.SlowHello, s.SlaveCommit = 3, 3, 1, true, true
		}),
		three("3 epochs, hello travels, slaves know commit, 1 cut", func(s *Scope) {
			s.Epochs, s.SlowHello, s.SlaveCommit, s.Cuts = 3, true, true, 1
		}),
		three("3 epochs, slow disks, 1 crash, l=3", func(s *Scope) {
			s.Epochs, s.Frames, s.Crashes, s.SlowSlaves, s.SlowDisk = 3, 3, 1, true, true
		}),
		three("2 epochs, slow messages to masters, l=3", func(s *Scope) {
			s.Epochs, s.Frames, s.SlowMaster, s.SlowHello = 2, 3, true, true
		}),
		three("3 epochs, slow messages to masters, 1 cut, l=3", func(s *Scope) {
			s.Epochs, s.Frames, s.SlowMaster, s.SlowHello, s.Cuts = 3, 3, true, true, 1
		}),
		three("copies 3, 4 epochs, 1 reconfiguration, l=3", func(s *Scope) { s.Copies, s.Frames, s.Reconfigurations = 3, 3, 1 }),
		three("copies 3, 4 epochs, 1 reconfiguration", func(s *Scope) { s.Copies, s.Reconfigurations = 3, 1 }),
		three("2 replicas, copies 2, 4 epochs, 2 reconfigurations, 1 crash", func(s *Scope) {
			s.Replicas, s.Members, s.Reconfigurations, s.Crashes, s.SlowTold = 2, 2, 2, 1, true
		}),
		three("2 replicas, copies 2, 4 epochs, 2 reconfigurations, 1 wipe, 1 crash", func(s *Scope) {
			s.Replicas, s.Members, s.Reconfigurations, s.Crashes, s.Wipes = 2, 2, 2, 1, 1
		}),
		three("2 members and a learner, 4 epochs, 2 reconfigurations, l=3", func(s *Scope) { s.Members, s.Frames, s.Reconfigurations = 2, 3, 2 }),
		three("2 members and a learner, 4 epochs, 2 reconfigurations", func(s *Scope) { s.Members, s.Reconfigurations = 2, 2 }),
	}
}

// three is the common scope: three replicas, two copies, four epochs, three frames beyond the first.
func three(name string, change func(*Scope)) Scope {
	s := Scope{Name: name, Replicas: 3, Members: 3, Copies: 2, MinCopies: 1, Epochs: 4, Frames: 4}
	change(&s)
	return s
}
