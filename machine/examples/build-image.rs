//! Builds an image into a directory: `cargo run -p golem-vm-machine --example build-image -- DIRECTORY [NAME]`.

use golem_vm_machine::disk::DiskTool;
use golem_vm_machine::image::build::{Recipe, build};
use golem_vm_machine::image::{ImageError, ImageStore};

#[tokio::main]
async fn main() -> Result<(), ImageError> {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else {
        eprintln!("usage: build-image DIRECTORY [NAME]");
        std::process::exit(2);
    };
    let name = arguments.next().unwrap_or_else(|| "debian-12".to_owned());
    let Some(recipe) = Recipe::named(&name) else {
        return Err(ImageError::NoRecipe(name, Recipe::names()));
    };
    let store = ImageStore::open(directory.as_ref(), DiskTool::default())?;
    let (progress, mut lines) = tokio::sync::mpsc::channel(64);
    let telling = tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            eprintln!("{line}");
        }
    });
    let image = build(&store, &recipe, &progress).await?;
    drop(progress);
    let _ = telling.await;
    println!("{} {} {}", image.name, image.digest, image.disk.display());
    Ok(())
}
