from oneagent.csi_driver.provisioner.main import main

raise SystemExit(main())
