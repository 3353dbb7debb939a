from oneagent.csi_driver.provisioner.command import main

raise SystemExit(main())
